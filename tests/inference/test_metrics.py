"""Figures of predictions: against torchmetrics, against cases computed by hand, and by what must hold."""

import math

import pytest
import torch
from torchmetrics.functional import classification as official

from dynconv.inference.metrics import Metrics


def metrics(probabilities: torch.Tensor, labels: torch.Tensor) -> Metrics:
    return Metrics(labels, probabilities.argmax(1), probabilities, 0.0)


@pytest.fixture(scope="module")
def uneven() -> Metrics:
    """700 images of seven classes, some of them rare, half recognised."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).multinomial(700, replacement=True, generator=generator)
    logits = torch.randn(700, 7, generator=generator)
    logits[torch.arange(700), labels] += 1.2
    return metrics((2 * logits).softmax(1), labels)


def test_the_figures_are_those_of_torchmetrics(uneven: Metrics) -> None:
    p, labels, classes = uneven.probabilities, uneven.labels, 7

    each = {"precision": official.multiclass_precision, "recall": official.multiclass_recall}
    for name, function in (each | {"f1": official.multiclass_f1_score}).items():
        expected = function(p, labels, classes, average="none").tolist()
        assert getattr(uneven, name) == pytest.approx(expected, abs=1e-6), name
    assert uneven.macro_accuracy == pytest.approx(float(official.multiclass_accuracy(p, labels, classes)), abs=1e-6)
    assert uneven.macro_f1 == pytest.approx(float(official.multiclass_f1_score(p, labels, classes)), abs=1e-6)
    assert uneven.macro_precision == pytest.approx(float(official.multiclass_precision(p, labels, classes)), abs=1e-6)
    assert uneven.accuracy == pytest.approx(float(official.multiclass_accuracy(p, labels, classes, average="micro")))
    for k in (1, 2, 5):
        expected = official.multiclass_accuracy(p, labels, classes, average="micro", top_k=k)
        assert uneven.top(k) == pytest.approx(float(expected))
    assert torch.equal(uneven.confusion, official.multiclass_confusion_matrix(p, labels, classes))
    expected = official.multiclass_calibration_error(p, labels, classes, n_bins=15, norm="l1")
    assert uneven.calibration_error == pytest.approx(float(expected), abs=1e-6)
    found = [uneven.average_precision(label) for label in range(classes)]
    expected = official.multiclass_average_precision(p, labels, classes, average="none").tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def test_by_hand_macro_averages_weigh_a_rare_class_as_much_as_a_common_one() -> None:
    # 8 of a, all right; 2 of b, one taken for a.
    labels, predicted = torch.tensor([0] * 8 + [1] * 2), torch.tensor([0] * 8 + [0, 1])
    found = metrics(torch.eye(2)[predicted], labels)

    assert found.accuracy == 0.9 and found.macro_accuracy == 0.75
    assert found.precision == pytest.approx([8 / 9, 1]) and found.recall == [1, 0.5]
    assert found.macro_f1 == pytest.approx((16 / 17 + 2 / 3) / 2)
    (pair,) = found.pairs(10)
    assert (pair.true, pair.predicted, pair.count, pair.share) == (1, 0, 1, 0.5)


def test_a_class_without_images_does_not_count_and_one_never_predicted_counts_as_missed() -> None:
    found = metrics(torch.eye(3)[torch.tensor([0, 0, 2])], torch.tensor([0, 1, 0]))

    assert found.recall[:2] == [0.5, 0] and found.precision[:2] == [0.5, 0]
    assert all(math.isnan(figures[2]) for figures in (found.recall, found.precision, found.f1))
    assert found.macro_accuracy == 0.25 and found.images == [2, 1, 0]


def test_of_equally_probable_classes_the_first_ones_count() -> None:
    """A network that says nothing gets no more than k classes would by chance."""
    found = metrics(torch.full((6, 6), 1 / 6), torch.arange(6))

    assert found.top(1) == pytest.approx(1 / 6) and found.top_5 == pytest.approx(5 / 6) and found.top(6) == 1
    assert metrics(torch.full((5, 5), 0.2), torch.arange(5)).top_5 is None


def test_refusing_by_hand() -> None:
    # Confidences 0.9 (right), 0.8 (wrong), 0.8 (right), 0.6 (wrong).
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]])
    found = metrics(p, torch.tensor([0, 1, 1, 0]))

    confidence, coverage, accuracy = (each.tolist() for each in found.coverage)
    assert confidence == pytest.approx([0.9, 0.8, 0.6]) and coverage == [0.25, 0.75, 1]
    assert accuracy == pytest.approx([1, 2 / 3, 1 / 2])
    assert (found.threshold(0.7).coverage, found.threshold(0.7).accuracy) == (0.75, pytest.approx(2 / 3))
    assert (found.threshold(0.95).coverage, found.threshold(0.95).accuracy) == (0, None)
    # |0.9 - 1| / 4 + |0.8 - 1/2| / 2 + |0.6 - 0| / 4
    assert found.calibration_error == pytest.approx(0.025 + 0.15 + 0.15)


def test_the_curve_of_coverage_agrees_with_its_thresholds(uneven: Metrics) -> None:
    confidence, coverage, accuracy = uneven.coverage

    assert (confidence.diff() < 0).all() and (coverage.diff() > 0).all()
    assert (coverage[-1], accuracy[-1]) == (1, pytest.approx(uneven.accuracy))
    for number in (0, 100, 300):
        found = uneven.threshold(float(confidence[number]))
        assert (found.coverage, found.accuracy) == (
            pytest.approx(float(coverage[number])),
            pytest.approx(accuracy[number]),
        )
    assert accuracy[50] > accuracy[-1] + 0.1, "the confident answers are better"


def test_a_perfect_network_is_perfect() -> None:
    found = metrics(torch.eye(10)[torch.arange(100) % 10], torch.arange(100) % 10)

    assert found.accuracy == found.macro_accuracy == found.macro_f1 == found.macro_precision == found.top_5 == 1
    assert found.calibration_error == 0 and found.pairs(10) == []
    assert [found.average_precision(label) for label in range(10)] == [1] * 10


def test_a_single_image() -> None:
    found = metrics(torch.tensor([[0.3, 0.7]]), torch.tensor([0]))

    assert found.accuracy == 0 and found.macro_f1 == 0 and found.calibration_error == pytest.approx(0.7)
    assert math.isnan(found.average_precision(1)) and found.average_precision(0) == 1
