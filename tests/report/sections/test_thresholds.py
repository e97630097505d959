import pytest
import torch
from matplotlib.figure import Figure

from dynconv.inference.metrics import Metrics
from dynconv.report.sections import thresholds


def made(classes: int, count: int = 1000) -> Metrics:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1
    return Metrics(labels, logits.argmax(1), logits.softmax(1), 0.0)


def test_the_curve_ends_with_all_images_and_begins_with_enough_of_them(figures: dict[str, Figure]) -> None:
    metrics = made(3)
    thresholds.coverage(metrics)

    curve = figures["coverage"].axes[0].lines[0]
    x, y = curve.get_xdata(), curve.get_ydata()
    assert x[0] == pytest.approx(100 * thresholds.FEWEST / 1000) and x[-1] == 100 and len(x) == thresholds.POINTS
    assert y[-1] == pytest.approx(100 * metrics.accuracy) and y[0] > y[-1]


def test_few_images_are_a_curve_too(figures: dict[str, Figure]) -> None:
    thresholds.coverage(made(3, 1))

    assert list(figures["coverage"].axes[0].lines[0].get_xdata()) == [100]


def test_each_class_with_images_has_its_curve(figures: dict[str, Figure]) -> None:
    metrics = made(3)
    thresholds.precision_recall(
        Metrics(metrics.labels % 2, metrics.predicted, metrics.probabilities, 0.0), ("a", "b", "c")
    )

    labels = [str(line.get_label()) for line in figures["precision-recall"].axes[0].lines]
    assert [label[:5] for label in labels] == ["a: AP", "b: AP"]
