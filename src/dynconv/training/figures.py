"""Loss and accuracy. Shape suffixes: N images, K classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def loss_of(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    return float(F.cross_entropy(logits_NK, labels_N))


def loss_of_batch(
    logits_NK: Tensor, target: Tensor, label_smoothing: float, class_weights_K: Tensor | None = None
) -> Tensor:
    """What training minimises: the mean of each image's cross-entropy times the weight of its class, a scalar.

    Divided by the number of images, not by the sum of their weights, as torch does, so micro-batches and processes add
    up to the batch. An image of mixed classes has the mean of their weights.

    Args:
        target: classes, int64 [N], or their shares, floats [N, K].
    """
    if class_weights_K is None:
        return F.cross_entropy(logits_NK, target, label_smoothing=label_smoothing)
    loss_N = F.cross_entropy(logits_NK, target, label_smoothing=label_smoothing, reduction="none")
    weight_N = class_weights_K[target] if target.dim() == 1 else target @ class_weights_K
    return (weight_N * loss_N).mean()


def balanced_class_weights(labels_N: Tensor, classes: int) -> Tensor:
    """N / (K n) for each class that has n of the N images, float32 [classes]; K counts the classes that have any.

    The weight of a class without images is 0.
    """
    count = labels_N.bincount(minlength=classes)
    weights = len(labels_N) / ((count > 0).sum() * count.clamp_min(1))
    return weights.masked_fill(count == 0, 0).float()


def accuracy_of(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Share of right answers, 0..1."""
    return float(count_correct(logits_NK, labels_N)) / len(labels_N)


def count_correct(logits_NK: Tensor, target: Tensor) -> Tensor:
    """Number of right answers, a float32 scalar. The target holds classes [N] or their shares [N, K]."""
    labels_N = target if target.dim() == 1 else target.argmax(1)
    return (logits_NK.argmax(1) == labels_N).sum().float()
