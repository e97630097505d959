"""Figures from a run's predictions: accuracy with its interval, and the metrics of each class."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest
from torch.nn import functional as F

from dynconv.artifacts.predictions import Predictions
from dynconv.inference.metrics import Metrics


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval (Wilson), 0..1, of the accuracy `right` / `count`."""
    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class: number of images, and precision, recall and F1, 0..1; NaN without images."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Results:
    """The figures of all predictions, and the names of the classes."""

    metrics: Metrics
    classes: tuple[str, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, 0..1."""
        return interval(int(self.metrics.right.sum()), len(self.metrics.labels))

    @property
    def rows(self) -> list[ClassRow]:
        """The figures of each class."""
        metrics = self.metrics
        each = (self.classes, metrics.images, metrics.precision, metrics.recall, metrics.f1)
        return [ClassRow(*row) for row in zip(*each, strict=True)]


def results(predictions: Predictions) -> Results:
    """The figures of a run's predictions."""
    probabilities_NC, labels_N = predictions.probabilities, predictions.labels
    loss = float(F.nll_loss(probabilities_NC.clamp_min(1e-12).log(), labels_N))
    return Results(Metrics(labels_N, probabilities_NC.argmax(1), probabilities_NC, loss), predictions.classes)
