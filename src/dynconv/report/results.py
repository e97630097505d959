"""Figures from a run's predictions: accuracy, confusion, and precision, recall and F1 of each class.

Shape suffixes: N images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from dynconv.artifacts.predictions import Predictions


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval (Wilson), 0..1, of the accuracy `right` / `count`."""
    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class: number of images, and precision, recall and F1, 0..1."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Results:
    """The figures of all predictions.

    Attributes:
        accuracy, interval: the accuracy and its 95 % interval, 0..1.
        confusion: int64 [C, C], row = true class, column = predicted class.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    confusion: Tensor
    rows: list[ClassRow]


def results(predictions: Predictions) -> Results:
    """Computes the classification figures with torchmetrics."""
    probabilities_NC, labels_N = predictions.probabilities, predictions.labels
    count, classes = len(labels_N), len(predictions.classes)
    predicted_N = probabilities_NC.argmax(1)
    right = int((predicted_N == labels_N).sum())
    each = [
        metric(predicted_N, labels_N, classes, average="none").tolist()
        for metric in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    ]
    images = torch.bincount(labels_N, minlength=classes).tolist()
    return Results(
        images=count,
        accuracy=right / count,
        interval=interval(right, count),
        confusion=multiclass_confusion_matrix(predicted_N, labels_N, classes),
        rows=[ClassRow(*row) for row in zip(predictions.classes, images, *each, strict=True)],
    )
