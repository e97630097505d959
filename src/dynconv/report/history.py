"""A run's epochs as CSV, one row each, for pandas.read_csv or a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

from dynconv.artifacts.records import EpochLine

_PARTS = {"kind", "epoch", "lr", "routing"}
"""Fields that have columns of their own, come first, or have none."""


def as_csv(epochs: list[EpochLine]) -> str:
    """A header and one row per epoch: the fields of its record, each learning rate, and each block's routing.

    lr.experts is a rate; routing.block1.entropy, .std and .mean1, the mean weight of expert 1, are of a block. What an
    epoch does not have is empty, as are validation figures without a hold-out.
    """
    rows = [_row(line) for line in epochs]
    names = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys(_fields())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _fields() -> list[str]:
    return ["epoch", *(name for name in EpochLine.model_fields if name not in _PARTS)]


def _row(line: EpochLine) -> dict[str, Any]:
    row = {name: getattr(line, name) for name in _fields()}
    row |= {f"lr.{name}": rate for name, rate in line.lr.items()}
    for block in line.routing:
        row |= {f"routing.block{block.block}.{name}": getattr(block, name) for name in ("entropy", "std")}
        row |= {f"routing.block{block.block}.mean{number}": value for number, value in enumerate(block.mean, 1)}
    return row
