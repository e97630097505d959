"""Calibration: is the network right as often as it is confident?

Shape suffixes: N images, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from dynconv.inference.metrics import Bin, Metrics
from dynconv.report.plot import Plot, draw, ink, legend_below, series
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject


@section("calibration", "Calibration", order=22)
def make(subject: Subject) -> Content | None:
    """Made from the run's predictions; None without them."""
    predictions = subject.record.predictions
    if predictions is None:
        return None
    log_probabilities_NC = predictions.probabilities.clamp_min(1e-12).log()
    scaled_NC, temperature = temperature_scaled(log_probabilities_NC, predictions.labels)
    before, after = (calibration(each, predictions.labels) for each in (log_probabilities_NC, scaled_NC))
    return Content([reliability(before, after)], {"before": before, "after": after, "temperature": temperature})


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        error: expected calibration error, 0..1.
        loss: cross-entropy, nats.
        bins: those of the error that are not empty.
    """

    error: float
    loss: float
    bins: list[Bin]


def calibration(log_probabilities_NC: Tensor, labels_N: Tensor) -> Calibration:
    """The calibration of the top class."""
    loss = float(F.cross_entropy(log_probabilities_NC, labels_N))
    metrics = Metrics(labels_N, log_probabilities_NC.argmax(1), log_probabilities_NC.softmax(1), loss)
    return Calibration(metrics.calibration_error, loss, metrics.bins)


def temperature_scaled(log_probabilities_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, float]:
    """Divides log-probabilities by a temperature (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Each half of the images uses the temperature that minimises the loss on the other half.

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


def reliability(before: Calibration, after: Calibration) -> Plot:
    """Plots accuracy against confidence, before and after temperature scaling."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=ink(), alpha=0.4, linewidth=0.8, label="perfectly calibrated")
        for index, (name, found) in enumerate({"unscaled": before, "temperature scaled": after}.items()):
            points = [(100 * confidence, 100 * accuracy) for confidence, accuracy, _ in found.bins]
            label = f"{name}: ECE {100 * found.error:.1f} %"
            axes.plot(*zip(*points, strict=True), label=label, **series(index))
        axes.set(xlabel="confidence: probability of the predicted class (%)", ylabel="accuracy (%)")
        legend_below(figure, 1)

    return draw("reliability", "Accuracy against the confidence of the prediction.", paint, 4.8, 4.3)
