"""The plots of a sweep: its history, which fields mattered, which values were good, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynconv.report.curves import pareto_front
from dynconv.report.plot import COLOURS, Plot, draw, ink, legend_below
from dynconv.sweep.result import Result, Row, number_text
from dynconv.sweep.space import Axis

MOST_AXES = 8
"""Fields in the plot of parallel coordinates: the most important ones."""
_COMPLETE: Any = {"color": COLOURS[0], "marker": "o", "s": 22}
_PRUNED: Any = {"color": COLOURS[1], "marker": "x", "s": 22}


def plots(result: Result, importance: dict[str, float]) -> list[Plot]:
    """All plots for which there are trials.

    Args:
        importance: field -> its share, largest first; empty if there are too few trials.
    """
    if not result.ranked:
        return []
    found = [_history(result), _cost(result)]
    if importance:
        found.append(_importance(importance))
    if len(result.ranked) > 1:
        found.append(_parallel(result, list(importance)[:MOST_AXES]))
    return found


def _scale(result: Result) -> tuple[str, int]:
    return ("validation accuracy (%)", 100) if result.sweep.maximise else ("validation loss (nats)", 1)


def _scores(result: Result, rows: Sequence[Row]) -> list[float]:
    return [_scale(result)[1] * (row.score or 0.0) for row in rows]


def _history(result: Result) -> Plot:
    complete = [row for row in result.rows if row.complete]
    pruned = [row for row in result.rows if row.state == "pruned" and row.score is not None]
    best = (np.maximum if result.sweep.maximise else np.minimum).accumulate(_scores(result, complete))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.scatter([row.number for row in complete], _scores(result, complete), label="complete", **_COMPLETE)
        if pruned:
            axes.scatter([row.number for row in pruned], _scores(result, pruned), label="pruned", **_PRUNED)
        axes.step([row.number for row in complete], best, where="post", color="#999999", label="best so far", zorder=0)
        axes.set(xlabel="trial", ylabel=_scale(result)[0])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_below(figure, 3)

    return draw("history", "Score of each trial; of a pruned one, when it was pruned.", paint, 7.6, 3.4)


def _importance(importance: dict[str, float]) -> Plot:
    names = list(importance)[::-1]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.barh(names, [100 * importance[name] for name in names], color=COLOURS[0], height=0.6)
        axes.set(xlabel="importance (%)")
        axes.grid(visible=False, axis="y")

    caption = (
        "How much the values of the best quarter of the complete trials differ from those of all, as shares of 100 % "
        "(PED-ANOVA, Watanabe et al. 2023). With few trials it is no more than a hint."
    )
    return draw("importance", caption, paint, 6, 1.1 + 0.32 * len(names))


def _cost(result: Result) -> Plot:
    costs = (("training_flop", 1e12, "training operations per run (TFLOP)"), ("train_seconds", 1, "training time (s)"))

    def paint(figure: Figure) -> None:
        for axes, (name, unit, label) in zip(figure.subplots(1, 2, sharey=True), costs, strict=True):
            points = sorted(
                (row.about[name] / unit, score)
                for row, score in zip(result.ranked, _scores(result, result.ranked), strict=True)
            )
            axes.scatter(*zip(*points, strict=True), **_COMPLETE)
            axes.step(
                *zip(*pareto_front(points, maximise=result.sweep.maximise), strict=True),
                where="post",
                color="#999999",
                zorder=0,
            )
            axes.set(xlabel=label, xlim=(0, 1.08 * points[-1][0]))
        figure.axes[0].set(ylabel=_scale(result)[0])

    caption = (
        "Score against cost, one point per complete trial; the line is the Pareto front. Times of trials that ran side "
        "by side, or on different machines, cannot be compared."
    )
    return draw("cost", caption, paint, 7.6, 3.2)


def _parallel(result: Result, fields: Sequence[str]) -> Plot:
    """One line per complete trial through its values, coloured by score; the best are drawn last."""
    rows = result.ranked[::-1]
    fields = fields or [axis.field for axis in result.sweep.axes][:MOST_AXES]
    scales = [_Scale([row.values[field] for row in rows], _axis(result, field)) for field in fields]
    scores = _scores(result, rows)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["cividis"]
        norm = matplotlib.colors.Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1)
        for row, score in zip(rows, scores, strict=True):
            heights = [scale.place(row.values[field]) for scale, field in zip(scales, fields, strict=True)]
            axes.plot(range(len(fields)), heights, color=colours(norm(score)), linewidth=1.2, marker="o", markersize=3)
        for place, scale in enumerate(scales):
            _draw_scale(axes, place, scale)
        axes.set_xticks(range(len(fields)), labels=[field.replace(".", ".\n") for field in fields])
        axes.set(xlim=(-0.3, len(fields) - 0.55), ylim=(-0.06, 1.06), yticks=[])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        mappable = matplotlib.cm.ScalarMappable(norm, colours)
        figure.colorbar(mappable, ax=axes, label=_scale(result)[0], pad=0.02)

    caption = "The values of each complete trial, one line per trial; brighter lines have larger scores."
    return draw("parallel", caption, paint, 1.8 + 1.35 * max(len(fields), 3), 3.8)


def _draw_scale(axes: Axes, place: int, scale: _Scale) -> None:
    axes.axvline(place, color=ink(), linewidth=0.7, zorder=0)
    for height, text in scale.ticks():
        axes.annotate(text, (place, height), (4, 0), textcoords="offset points", va="center", fontsize=7)


def _axis(result: Result, field: str) -> Axis:
    return next(axis for axis in result.sweep.axes if axis.field == field)


class _Scale:
    """The values of a field as heights from 0 to 1: numbers by their size, or its logarithm; others side by side."""

    def __init__(self, values: Sequence[Any], axis: Axis) -> None:
        single = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
        self._numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in single)
        self._log = bool(axis.tree().get("log"))
        drawn = set(map(number_text, values))
        self._kinds = [kind for kind in map(number_text, axis.ends()) if kind in drawn]
        if self._numeric:
            placed = [self._size(value) for value in single]
            self._low, self._span = min(placed), (max(placed) - min(placed)) or 1.0
            self._kinds = [number_text(value) for value in sorted(set(single))]

    def _size(self, value: Any) -> float:
        number = float(value[0] if isinstance(value, list) else value)
        return float(np.log(number)) if self._log else number

    def place(self, value: Any) -> float:
        """The height of a value."""
        if self._numeric:
            return (self._size(value) - self._low) / self._span
        return self._kinds.index(number_text(value)) / max(len(self._kinds) - 1, 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and texts: of every value if there are few, else of five."""
        if not self._numeric:
            return [(index / max(len(self._kinds) - 1, 1), kind) for index, kind in enumerate(self._kinds)]
        if len(self._kinds) <= 5:
            return [(self.place(float(kind)), kind) for kind in self._kinds]
        sizes = [self._low + share * self._span for share in (0, 0.25, 0.5, 0.75, 1)]
        shown = [float(np.exp(size)) if self._log else size for size in sizes]
        return [((size - self._low) / self._span, f"{value:.3g}") for size, value in zip(sizes, shown, strict=True)]
