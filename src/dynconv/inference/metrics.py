"""Figures of predictions on labelled images: overall, of each class, and of those confident enough to be given.

Macro averages weigh every class alike, however many images it has; classes without images do not count. Shape suffixes:
N images, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

TOP = 5
"""An answer of this many classes is judged too, where there are more classes than that."""
MOST_PAIRS = 10
"""How many pairs of confused classes are listed."""
BINS = 15
"""Bins of confidence for the calibration error."""
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Confidences below which answers are refused, in the table of thresholds."""


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another: how many, and which share of the class, 0..1."""

    true: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True)
class Threshold:
    """Answers with a confidence below `confidence` are refused.

    Attributes:
        coverage: share of the images that are answered, 0..1.
        accuracy: share of right ones among these, 0..1; None if none is answered.
    """

    confidence: float
    coverage: float
    accuracy: float | None


class Bin(NamedTuple):
    """Images of similar confidence: its mean, their accuracy, and their share of all images, each 0..1."""

    confidence: float
    accuracy: float
    share: float


@dataclass(frozen=True)
class Metrics:
    """Figures of the predictions for N >= 1 labelled images.

    Attributes:
        labels: true classes, int64 [N].
        predicted: the class that is answered, int64 [N].
        probabilities: float32 [N, K].
        loss: mean cross-entropy in nats, without label smoothing.
    """

    labels: Tensor
    predicted: Tensor
    probabilities: Tensor
    loss: float

    @cached_property
    def right(self) -> Tensor:
        """Which predictions are right, bool [N]."""
        return self.predicted == self.labels

    @cached_property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0..1."""
        return float(self.right.double().mean())

    @cached_property
    def confusion(self) -> Tensor:
        """Counts, int64 [K, K]: row = true class, column = predicted."""
        classes = self.probabilities.shape[1]
        pairs = torch.bincount(self.labels * classes + self.predicted, minlength=classes * classes)
        return pairs.view(classes, classes)

    @cached_property
    def images(self) -> list[int]:
        """Number of images of each class."""
        counts: list[int] = self.confusion.sum(1).tolist()
        return counts

    @property
    def recall(self) -> list[float]:
        """Share of the images of each class that are recognised, 0..1; NaN for a class without images."""
        return self._of_classes(self.confusion.sum(1))

    per_class = recall  # the accuracy on the images of each class is the same figure

    @property
    def precision(self) -> list[float]:
        """Share of right ones among the images predicted as each class, 0..1: 0 where there are none.

        NaN for a class without images.
        """
        return self._of_classes(self.confusion.sum(0))

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of precision and recall of each class, 0..1; NaN for a class without images."""
        return self._of_classes((self.confusion.sum(0) + self.confusion.sum(1)) / 2)

    def _of_classes(self, of_K: Tensor) -> list[float]:
        """Right predictions of each class divided by `of_K`."""
        figures_K = self.confusion.diag() / of_K.double().clamp_min(0.5)  # 0.5 is the smallest that is not 0
        found: list[float] = figures_K.masked_fill(self.confusion.sum(1) == 0, math.nan).tolist()
        return found

    @property
    def macro_accuracy(self) -> float:
        """Mean of the recalls, 0..1; also called balanced accuracy or macro recall."""
        return _mean(self.recall)

    @property
    def macro_precision(self) -> float:
        """Mean of the precisions, 0..1."""
        return _mean(self.precision)

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1, 0..1."""
        return _mean(self.f1)

    def top(self, k: int) -> float:
        """Share of images whose class is among the k most probable ones, 0..1; of equal ones the first count."""
        best_Nk = self.probabilities.argsort(dim=1, descending=True, stable=True)[:, :k]
        return float((best_Nk == self.labels[:, None]).any(1).double().mean())

    @property
    def top_5(self) -> float | None:
        """Share of images whose class is among the five most probable, 0..1; None where no more than five exist."""
        return self.top(TOP) if self.probabilities.shape[1] > TOP else None

    @cached_property
    def confidence(self) -> Tensor:
        """The largest probability of each image, float32 [N]."""
        return self.probabilities.amax(1)

    @property
    def bins(self) -> list[Bin]:
        """The images by confidence, in `BINS` bins of equal width, without empty ones."""
        bin_N = (self.confidence * BINS).long().clamp_max(BINS - 1)
        found = []
        for number in bin_N.unique().tolist():
            inside = bin_N == number
            confidence, accuracy = (float(each[inside].double().mean()) for each in (self.confidence, self.right))
            found.append(Bin(confidence, accuracy, float(inside.double().mean())))
        return found

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance between confidence and accuracy of a bin, weighted by its images.

        0..1. Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
        """
        return sum(each.share * abs(each.confidence - each.accuracy) for each in self.bins)

    @property
    def coverage(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each threshold at which something changes, from the highest: it, the coverage, and the accuracy.

        float64 [M] each, M the number of different confidences. The last is that of all images.
        """
        order_N = self.confidence.argsort(descending=True)
        confidence_N = self.confidence[order_N]
        answered_N = torch.arange(1, len(order_N) + 1, dtype=torch.float64)
        accuracy_N = self.right[order_N].double().cumsum(0) / answered_N
        last_N = _last_of_equals(confidence_N)
        return confidence_N[last_N].double(), answered_N[last_N] / len(order_N), accuracy_N[last_N]

    def threshold(self, confidence: float) -> Threshold:
        """What is answered, and how well, where answers of a lower confidence are refused."""
        answered = self.confidence >= confidence
        accuracy = float(self.right[answered].double().mean()) if answered.any() else None
        return Threshold(confidence, float(answered.double().mean()), accuracy)

    def pairs(self, count: int) -> list[Pair]:
        """The commonest confusions, most images first; of equal ones the larger share of its class first."""
        wrong = self.confusion - self.confusion.diag().diag()
        found = [
            Pair(true, predicted, int(wrong[true, predicted]), int(wrong[true, predicted]) / self.images[true])
            for true, predicted in wrong.nonzero().tolist()
        ]
        return sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.true, pair.predicted))[:count]

    def precision_recall(self, label: int) -> tuple[Tensor, Tensor]:
        """Recall and precision for one class, where an image counts as predicted if its probability is high enough.

        One point for each different probability, from the highest: float64 [M] each. NaN without images of the class.
        """
        p_N = self.probabilities[:, label]
        order_N = p_N.argsort(descending=True)
        found_N = (self.labels[order_N] == label).double().cumsum(0)
        last_N = _last_of_equals(p_N[order_N])
        precision_N = found_N / torch.arange(1, len(order_N) + 1)
        return (found_N / found_N[-1])[last_N], precision_N[last_N]

    def average_precision(self, label: int) -> float:
        """Sum of the precisions of a class, each weighted by the recall that it adds, 0..1; NaN without images."""
        recall_M, precision_M = self.precision_recall(label)
        return float((recall_M.diff(prepend=torch.zeros(1)) * precision_M).sum())


def _last_of_equals(sorted_N: Tensor) -> Tensor:
    """Which of sorted numbers are the last of those equal to them, bool [N]."""
    return torch.cat((sorted_N[1:] != sorted_N[:-1], torch.tensor([True])))


def _mean(figures: list[float]) -> float:
    """Of those that are not NaN."""
    known = [figure for figure in figures if not math.isnan(figure)]
    return sum(known) / len(known)
