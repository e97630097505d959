"""Outcomes of `predict` as rows: of a table for people, of CSV, or JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from dynconv.errors import escaped
from dynconv.inference.predict import Outcome
from dynconv.inference.predictor import Prediction

Form = Literal["table", "csv", "json"]
UNSURE = "unsure"
"""The answer where no class is likely enough."""
_WIDEST_NAME = 60


def label_of(prediction: Prediction, least: float) -> str:
    """The likeliest class, or `UNSURE` if its probability is below `least`."""
    return prediction.label if prediction.probability >= least else UNSURE


def row_writer(
    form: Form, sources: Sequence[str], classes: Sequence[str], top: int, least: float = 0.0
) -> Callable[[Outcome], None]:
    """A function that prints an outcome to standard output. Only JSON has a row for an image that was not read.

    Where the likeliest class has a probability below `least`, tables say unsure before the classes, and JSON's `class`
    is null. CSV stays as it is: its first probability says the same.
    """
    if form == "json":
        return lambda outcome: print(json.dumps(as_dict(outcome, least)))
    if form == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        numbers = range(1, min(top, len(classes)) + 1)
        rows.writerow(["image", *(f"{what}{n}" for n in numbers for what in ("class", "probability"))])
        return lambda outcome: rows.writerow(_cells(outcome)) if outcome.prediction else None
    width = min(max(len(escaped(source)) for source in sources), _WIDEST_NAME)
    label_width = max(map(len, classes))

    def write(outcome: Outcome) -> None:
        if outcome.prediction:
            mark = f"{UNSURE}: " if least else ""
            unsure = mark if outcome.prediction.probability < least else " " * len(mark)
            print(f"{escaped(outcome.source):<{width}}   {unsure}{_columns(outcome.prediction, label_width)}")

    return write


def as_dict(outcome: Outcome, least: float = 0.0) -> dict[str, object]:
    """For JSON; the class is None where its probability is below `least`."""
    if outcome.prediction is None:
        return {"image": outcome.source, "error": outcome.error}
    top = [{"class": name, "probability": value} for name, value in outcome.prediction.top]
    found = top[0] if outcome.prediction.probability >= least else {**top[0], "class": None}
    return {"image": outcome.source, **found, "top": top}


def _cells(outcome: Outcome) -> list[str]:
    assert outcome.prediction is not None
    return [outcome.source, *(cell for name, value in outcome.prediction.top for cell in (name, f"{value:.6f}"))]


def _columns(prediction: Prediction, label_width: int) -> str:
    return "   ".join(f"{name:<{label_width}} {value:6.1%}" for name, value in prediction.top)
