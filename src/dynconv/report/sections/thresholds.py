"""Thresholds: the accuracy of answers that the network is sure of, and precision against recall of each class."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dynconv.inference.metrics import THRESHOLDS, Metrics
from dynconv.report.plot import Plot, draw, legend_below, series
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject

FEWEST = 20
"""Answers with which the curve begins: the accuracy of fewer is mostly chance."""
MOST_CLASSES = 12
"""With more classes than this, no curve of precision and recall could be told from another."""
POINTS = 200
"""Points of a curve, at most."""


@section("thresholds", "Thresholds", order=23)
def make(subject: Subject) -> Content | None:
    """Made from the run's predictions; None without them."""
    if subject.results is None:
        return None
    metrics, classes = subject.results.metrics, subject.results.classes
    plots = [coverage(metrics)]
    if len(classes) <= MOST_CLASSES:
        plots.append(precision_recall(metrics, classes))
    fewest = min(FEWEST, len(metrics.labels))
    return Content(plots, {"thresholds": [metrics.threshold(each) for each in THRESHOLDS], "fewest": fewest})


def coverage(metrics: Metrics) -> Plot:
    """Plots accuracy against the share of images that are answered."""
    _, coverage_M, accuracy_M = metrics.coverage
    shown_M = coverage_M >= min(FEWEST / len(metrics.labels), 1)
    x, y = (_thinned(100 * each[shown_M]) for each in (coverage_M, accuracy_M))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(x, y, **series(0) | {"marker": ""})
        axes.plot(x[-1], y[-1], **series(0))  # one image may be all there is
        axes.set(xlabel="images that are answered, the most confident first (%)", ylabel="accuracy of these (%)")

    caption = "Accuracy against coverage: the less sure answers are refused, the more accurate are the others."
    return draw("coverage", caption, paint, 4.8, 3.6)


def precision_recall(metrics: Metrics, classes: tuple[str, ...]) -> Plot:
    """Plots precision against recall for each class that has images."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for label, name in enumerate(classes):
            average = metrics.average_precision(label)
            if math.isnan(average):
                continue
            recall_M, precision_M = metrics.precision_recall(label)
            points = (_thinned(100 * each) for each in (recall_M, precision_M))
            axes.plot(*points, label=f"{name}: AP {average:.3f}", **series(label) | {"marker": ""})
        axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 101), ylim=(0, 101))
        legend_below(figure, 3)

    caption = (
        "Precision against recall of each class as its threshold falls: an image counts as predicted if the class is "
        "probable enough. AP: average precision."
    )
    return draw("precision-recall", caption, paint, 5.6, 5.0)


def _thinned(figures_M: Tensor) -> list[float]:
    """At most `POINTS` of them, evenly spaced, the first and the last included."""
    kept = torch.linspace(0, len(figures_M) - 1, min(POINTS, len(figures_M)), dtype=torch.float64).round().long()
    found: list[float] = figures_M[kept].tolist()
    return found
