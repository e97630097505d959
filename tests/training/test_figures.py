"""The loss of training with class weights."""

import pytest
import torch
from torch.nn import functional as F

from dynconv.training.figures import balanced_class_weights, loss_of_batch


def logits(count: int = 12, classes: int = 4) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


def test_balanced_weights_by_hand() -> None:
    # N = 8; K = 3 classes have images: 8 / (3 * 5), 8 / (3 * 2), 8 / (3 * 1).
    labels = torch.tensor([0] * 5 + [1] * 2 + [3])

    found = balanced_class_weights(labels, 4)

    torch.testing.assert_close(found, torch.tensor([8 / 15, 8 / 6, 0, 8 / 3]))
    assert float(found[labels].mean()) == pytest.approx(1), "so the learning rates mean what they did"
    sums = [float(found[labels[labels == label]].sum()) for label in (0, 1, 3)]
    assert sums == pytest.approx([8 / 3] * 3), "all classes weigh alike"
    torch.testing.assert_close(balanced_class_weights(torch.arange(12) % 4, 4), torch.ones(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_weighted_mean_over_the_images(smoothing: float) -> None:
    labels, weights = torch.arange(12) % 3, torch.tensor([0.5, 1.0, 3.0, 9.0])

    each = [F.cross_entropy(logits()[i : i + 1], labels[i : i + 1], label_smoothing=smoothing) for i in range(12)]
    expected = sum(float(weights[label]) * float(loss) for label, loss in zip(labels, each, strict=True)) / 12
    found = loss_of_batch(logits(), labels, smoothing, weights)

    assert float(found) == pytest.approx(expected)
    shares = F.one_hot(labels, 4).float()
    torch.testing.assert_close(loss_of_batch(logits(), shares, smoothing, weights), found)


def test_micro_batches_add_up_whatever_classes_they_hold() -> None:
    labels, weights = torch.tensor([0] * 6 + [1] * 6), torch.tensor([0.5, 2.0, 1.0, 1.0])

    parts = [loss_of_batch(logits()[part], labels[part], 0.1, weights) for part in (slice(0, 6), slice(6, 12))]

    torch.testing.assert_close(sum(parts) / 2, loss_of_batch(logits(), labels, 0.1, weights))


def test_an_image_of_mixed_classes_has_the_mean_of_their_weights() -> None:
    weights, target = torch.tensor([1.0, 3.0, 1.0, 1.0]), torch.tensor([[0.25, 0.75, 0, 0]])

    found = loss_of_batch(logits(1), target, 0.0, weights)
    assert float(found) == pytest.approx(2.5 * float(F.cross_entropy(logits(1), target)))


def test_without_weights_it_is_torchs_own() -> None:
    labels = torch.arange(12) % 4
    assert torch.equal(loss_of_batch(logits(), labels, 0.2), F.cross_entropy(logits(), labels, label_smoothing=0.2))
