import pytest
import torch

from dynconv.artifacts.predictions import Predictions
from dynconv.report import results


def predictions(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    return Predictions(torch.tensor(labels), torch.tensor(probabilities), ("cat", "dog"), "made up")


def test_the_figures_of_each_class() -> None:
    found = results.results(predictions([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]], [0, 0, 1, 1]))

    assert found.metrics.accuracy == 0.75 and found.metrics.confusion.tolist() == [[2, 0], [1, 1]]
    cat, dog = found.rows
    assert (cat.name, cat.images, cat.recall) == ("cat", 2, 1) and cat.precision == pytest.approx(2 / 3)
    assert dog.precision == 1 and dog.recall == 0.5 and dog.f1 == pytest.approx(2 / 3)


def test_the_interval_is_wilsons() -> None:
    # Wilson 1927; the values of statsmodels' proportion_confint(90, 100, method="wilson").
    assert results.interval(90, 100) == pytest.approx((0.8256343384950865, 0.9447708629393249))
    low, high = results.interval(100, 100)
    assert low < 1 and high == pytest.approx(1)
