"""The results on the test images, overall and by class."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dynconv.inference.metrics import MOST_PAIRS
from dynconv.report.plot import NUMBERED_CLASSES, Plot, draw, heat_map, ink, readable
from dynconv.report.results import Results
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject


@section("results", "Results", order=20)
def make(subject: Subject) -> Content | None:
    """Made from the run's predictions; None without them."""
    if subject.results is None:
        return None
    found = subject.results
    pairs = [
        (found.classes[pair.true], found.classes[pair.predicted], pair.count, pair.share)
        for pair in found.metrics.pairs(MOST_PAIRS)
    ]
    values = {"results": found, "metrics": found.metrics, "pairs": pairs, "tta": subject.record.config.tta}
    return Content([confusion(found)], values)


def confusion(results: Results) -> Plot:
    """Plots the confusion matrix. The diagonal has no colour, so that the mistakes stand out."""
    names = results.classes
    counts = results.metrics.confusion.numpy()
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    mistakes = percent.copy()
    np.fill_diagonal(mistakes, np.nan)
    most = float(np.nanmax(mistakes, initial=1.0))  # a colour scale even if there are no mistakes
    side = min(9.0, 2.2 + 0.42 * len(names))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        mesh = heat_map(axes, mistakes, names, names, (0, most))
        if len(names) <= NUMBERED_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                diagonal = row == column
                axes.text(
                    column, row, str(count), ha="center", va="center", fontsize=7,
                    color=ink() if diagonal else readable(mesh, percent[row, column]),
                    fontweight="bold" if diagonal else "normal",
                )  # fmt: skip
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(mesh, ax=axes, label="share of the true class (%)", shrink=0.8)

    caption = "Test images by true and predicted class. The colour is the share of the true class predicted so."
    return draw("confusion", caption, paint, side + 1, side)
