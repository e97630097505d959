"""Loss and accuracy. Shape suffixes: N images, K classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def loss_of(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    return float(F.cross_entropy(logits_NK, labels_N))


def accuracy_of(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Share of right answers, 0..1."""
    return float(count_correct(logits_NK, labels_N)) / len(labels_N)


def count_correct(logits_NK: Tensor, target: Tensor) -> Tensor:
    """Number of right answers, a float32 scalar. The target holds classes [N] or their shares [N, K]."""
    labels_N = target if target.dim() == 1 else target.argmax(1)
    return (logits_NK.argmax(1) == labels_N).sum().float()
