"""A run's predictions in figures: accuracy, confusion, and each class's precision, recall and F1.

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
    """95 % interval of an accuracy of `right` of `count` images, 0..1 (Wilson)."""
    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class ClassRow:
    """Of one class: how many images, and precision, recall and F1, 0..1."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Results:
    """Attributes:
    accuracy, interval: 0..1, with its 95 % interval.
    confusion: int64 [C, C], row = true class, column = predicted.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    confusion: Tensor
    rows: list[ClassRow]


def results(predictions: Predictions) -> Results:
    """The figures of classification, computed by torchmetrics."""
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
