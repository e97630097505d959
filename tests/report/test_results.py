import pytest
import torch

from dynconv.artifacts.rundir import Predictions
from dynconv.report import results


def predictions(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    return Predictions(torch.tensor(labels), torch.tensor(probabilities), ("cat", "dog"), "made up")


def test_the_figures_of_each_class() -> None:
    found = results.results(predictions([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]], [0, 0, 1, 1]))

    assert found.accuracy == 0.75 and found.confusion.tolist() == [[2, 0], [1, 1]]
    cat, dog = found.rows
    assert (cat.name, cat.images, cat.recall) == ("cat", 2, 1) and cat.precision == pytest.approx(2 / 3)
    assert dog.precision == 1 and dog.recall == 0.5 and dog.f1 == pytest.approx(2 / 3)


def test_the_interval_is_wilsons() -> None:
    # Wilson 1927; the values of statsmodels' proportion_confint(90, 100, method="wilson").
    assert results.interval(90, 100) == pytest.approx((0.8256343384950865, 0.9447708629393249))
    low, high = results.interval(100, 100)
    assert low < 1 and high == pytest.approx(1)


def test_an_overconfident_network_is_cooled_to_its_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = torch.randn(4000, 5, generator=generator) * 2
    labels = true_logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    overconfident = (3 * true_logits).log_softmax(1)

    scaled, temperature = results.temperature_scaled(overconfident, labels)
    before, after = results.calibration(overconfident, labels), results.calibration(scaled, labels)

    assert temperature == pytest.approx(3, rel=0.1)
    assert after.error < 0.03 < 0.15 < before.error and after.loss < before.loss
    assert sum(share for _, _, share in after.bins) == pytest.approx(1)
    for confidence, accuracy, share in after.bins:
        if share > 0.05:
            assert abs(confidence - accuracy) < 0.06


def test_no_image_has_a_part_in_its_own_temperature() -> None:
    log_probabilities = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    labels = log_probabilities.argmax(1)
    scaled, _ = results.temperature_scaled(log_probabilities, labels)

    other = labels.clone()
    other[7] = (labels[7] + 1) % 3
    changed, _ = results.temperature_scaled(log_probabilities, other)

    same = (scaled == changed).all(1)
    assert same[7] and same.sum() == 50  # its own half, whose temperature the other half chose


def test_notable_images() -> None:
    made = predictions([[0.9, 0.1], [0.55, 0.45], [0.8, 0.2], [0.3, 0.7]], [1, 0, 1, 1])

    assert results.confident_mistakes(made, 5) == [0, 2]
    assert results.least_certain(made, 2) == [1, 3]
