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
_WIDEST_NAME = 60


def row_writer(form: Form, sources: Sequence[str], classes: Sequence[str], top: int) -> Callable[[Outcome], None]:
    """A function that prints an outcome to standard output. Only JSON has a row for an image that was not read."""
    if form == "json":
        return lambda outcome: print(json.dumps(as_dict(outcome)))
    if form == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        numbers = range(1, min(top, len(classes)) + 1)
        rows.writerow(["image", *(f"{what}{n}" for n in numbers for what in ("class", "probability"))])
        return lambda outcome: rows.writerow(_cells(outcome)) if outcome.prediction else None
    width = min(max(len(escaped(source)) for source in sources), _WIDEST_NAME)
    label_width = max(map(len, classes))

    def write(outcome: Outcome) -> None:
        if outcome.prediction:
            print(f"{escaped(outcome.source):<{width}}   {_columns(outcome.prediction, label_width)}")

    return write


def as_dict(outcome: Outcome) -> dict[str, object]:
    """For JSON."""
    if outcome.prediction is None:
        return {"image": outcome.source, "error": outcome.error}
    top = [{"class": name, "probability": value} for name, value in outcome.prediction.top]
    return {"image": outcome.source, **top[0], "top": top}


def _cells(outcome: Outcome) -> list[str]:
    assert outcome.prediction is not None
    return [outcome.source, *(cell for name, value in outcome.prediction.top for cell in (name, f"{value:.6f}"))]


def _columns(prediction: Prediction, label_width: int) -> str:
    return "   ".join(f"{name:<{label_width}} {value:6.1%}" for name, value in prediction.top)
