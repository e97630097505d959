"""The metrics of an evaluation as tables for a terminal."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dynconv.inference.metrics import MOST_PAIRS, THRESHOLDS, TOP, Metrics, Pair

WIDEST_CONFUSION = 12
"""With more classes than this, the worst confusions are listed instead of the whole matrix."""


def as_tables(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> RenderableType:
    """The metrics for people: overall, then by class, which classes are confused, and what thresholds would do."""
    lines = [f"accuracy {plain.accuracy:8.2%}   loss {plain.loss:.4f}   ({len(plain.labels)} images)"]
    if tta is not None:
        lines.append(f"with TTA {tta.accuracy:8.2%}   loss {tta.loss:.4f}")
    best = tta or plain
    more = [f"macro accuracy {best.macro_accuracy:.2%}", f"macro F1 {best.macro_f1:.2%}"]
    more += [] if best.top_5 is None else [f"top-{TOP} {best.top_5:.2%}"]
    lines.append("   ".join([*more, f"ECE {best.calibration_error:.2%}"]) + ("   (with TTA)" if tta else ""))
    return Group(*lines, "", _by_class(plain, classes), "", _Confusion(plain, classes), "", _thresholds(plain))


def _by_class(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    """Each class with its figures, and what it is most often mistaken for."""
    table = Table(title="by class", title_justify="left", box=None)
    table.add_column("class")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    table.add_column("most often taken for")
    most: dict[int, Pair] = {}
    for pair in metrics.pairs(len(classes) ** 2):
        most.setdefault(pair.true, pair)
    figures = zip(classes, metrics.images, metrics.precision, metrics.recall, metrics.f1, strict=True)
    for row, (name, images, *shares) in enumerate(figures):
        shown = ["-" if math.isnan(share) else f"{share:.2%}" for share in shares]
        taken_for = f"{classes[most[row].predicted]} ({_times(most[row].count)})" if row in most else ""
        table.add_row(Text(name), str(images), *shown, Text(taken_for))
    return table


@dataclass(frozen=True)
class _Confusion:
    """The confusion matrix, or the commonest confusions where the matrix does not fit."""

    metrics: Metrics
    classes: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        matrix = _matrix(self.metrics, self.classes)
        needed = console.measure(matrix, options=options.update(max_width=sys.maxsize)).maximum
        fits = needed <= options.max_width and len(self.classes) <= WIDEST_CONFUSION
        yield matrix if fits else _pairs(self.metrics, self.classes)


def _matrix(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table(title="true class (row), predicted class (column)", title_justify="left", box=None)
    table.add_column("class")
    for name in classes:
        table.add_column(Text(name[:4]), justify="right", no_wrap=True)
    for name, counts in zip(classes, metrics.confusion.tolist(), strict=True):
        table.add_row(Text(name), *(str(count) if count else "·" for count in counts))
    return table


def _pairs(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table(title="commonest confusions", title_justify="left", box=None)
    for name in ("true class", "taken for"):
        table.add_column(name)
    for name in ("images", "of its class"):
        table.add_column(name, justify="right")
    for pair in metrics.pairs(MOST_PAIRS):
        names = (Text(classes[pair.true]), Text(classes[pair.predicted]))
        table.add_row(*names, str(pair.count), f"{pair.share:.1%}")
    return table


def _thresholds(metrics: Metrics) -> Table:
    table = Table(title="refusing answers below a confidence", title_justify="left", box=None)
    for name in ("confidence", "answered", "accuracy of these"):
        table.add_column(name, justify="right")
    for each in map(metrics.threshold, THRESHOLDS):
        accuracy = "-" if each.accuracy is None else f"{each.accuracy:.2%}"
        table.add_row(f"{each.confidence:.0%}" if each.confidence else "any", f"{each.coverage:.1%}", accuracy)
    return table


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
