"""Numbers from a run's predictions: per class, calibration, which images are notable. And from its network: robustness.

Shape suffixes: N images, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from dynconv.artifacts.rundir import Predictions
from dynconv.inference.predictor import Classifier
from dynconv.report.corruptions import CORRUPTIONS

BINS = 15
"""Bins of confidence for the calibration error and the reliability diagram."""


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


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        error: expected calibration error, 0..1, over `BINS` bins of equal width.
        loss: cross-entropy, nats.
        bins: (mean confidence, accuracy, share of the images) of each bin that is not empty.
    """

    error: float
    loss: float
    bins: list[tuple[float, float, float]]


def calibration(log_probabilities_NC: Tensor, labels_N: Tensor) -> Calibration:
    """Of the class that comes first."""
    probabilities_NC = log_probabilities_NC.softmax(1)
    classes = probabilities_NC.shape[1]
    error = multiclass_calibration_error(probabilities_NC, labels_N, classes, n_bins=BINS, norm="l1")
    confidence_N, predicted_N = probabilities_NC.max(1)
    bin_N = (confidence_N * BINS).long().clamp_max(BINS - 1)
    right_N = (predicted_N == labels_N).float()
    bins = []
    for number in bin_N.unique().tolist():
        inside = bin_N == number
        means = (confidence_N[inside].mean(), right_N[inside].mean(), inside.float().mean())
        bins.append((float(means[0]), float(means[1]), float(means[2])))
    return Calibration(float(error), float(F.cross_entropy(log_probabilities_NC, labels_N)), bins)


def temperature_scaled(log_probabilities_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, float]:
    """Log-probabilities divided by a temperature that other images chose (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599): each half of the images by the one that minimises the loss on the other half.

    Returns:
        the scaled log-probabilities [N, C], not normalised, and the mean of the two temperatures.
    """
    order_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))
    halves = order_N.chunk(2) if len(order_N) > 1 else (order_N, order_N)
    scaled_NC, temperatures = torch.empty_like(log_probabilities_NC), []
    for fitted, scaled in (halves, halves[::-1]):

        def loss(log_temperature: float, fitted: Tensor = fitted) -> float:
            logits = log_probabilities_NC[fitted] / math.exp(log_temperature)
            return float(F.cross_entropy(logits, labels_N[fitted]))

        temperature = math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
        scaled_NC[scaled] = log_probabilities_NC[scaled] / temperature
        temperatures.append(temperature)
    return scaled_NC, sum(temperatures) / 2


def confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """The wrongly classified images with the highest probability of their predicted class, highest first."""
    confidence_N, predicted_N = predictions.probabilities.max(1)
    wrong = (predicted_N != predictions.labels).nonzero()[:, 0]
    chosen: list[int] = wrong[confidence_N[wrong].argsort(descending=True)][:count].tolist()
    return chosen


def least_certain(predictions: Predictions, count: int) -> list[int]:
    """The images whose predicted class has the lowest probability, lowest first."""
    chosen: list[int] = predictions.probabilities.max(1).values.argsort()[:count].tolist()
    return chosen


def robustness(classifier: Classifier, images_NCHW: Tensor, labels_N: Tensor) -> dict[str, list[float]]:
    """Accuracy 0..1 on corrupted images, by corruption, mild to strong."""
    found: dict[str, list[float]] = {}
    for name, (corrupt, strengths, _) in CORRUPTIONS.items():
        logits = [classifier.logits(corrupt(images_NCHW, strength)) for strength in strengths]
        found[name] = [float((each.argmax(1) == labels_N).float().mean()) for each in logits]
    return found
