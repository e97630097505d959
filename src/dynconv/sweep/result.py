"""What a sweep has found: its trials in order, as a table, as CSV and JSON, and the best configuration as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import TrialState
from rich import box
from rich.table import Table
from rich.text import Text

from dynconv.artifacts.environment import environment
from dynconv.artifacts.files import write_text
from dynconv.artifacts.state import remove_state
from dynconv.sweep.config import Sweep
from dynconv.sweep.slots import Slot
from dynconv.sweep.trial import run_name
from dynconv.sweep.worker import PROBLEM
from dynconv.validation import shown

SHOWN = 10
"""Trials in the printed table."""


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        state: complete, pruned, diverged, failed, running, waiting.
        note: why it failed, or after how many epochs it was pruned.
        score: mean over the seeds of the metric on the hold-out; of a pruned trial the last one reported; None if there
            is none.
        values: the searched fields as its configuration has them.
        about: what is recorded: scores, epochs, train_seconds and training_flop per run, and so on.
    """

    number: int
    state: str
    note: str
    score: float | None
    values: dict[str, Any]
    about: dict[str, Any]

    @classmethod
    def of(cls, sweep: Sweep, slot: Slot) -> Row:
        """The row of a slot."""
        trial, about = slot.valid, slot.about
        if trial is None:
            return cls(slot.number, "waiting", "", None, {}, {})
        values = {axis.field: axis.value(trial.params[axis.field]) for axis in sweep.axes if axis.field in trial.params}
        state, note = trial.state.name.lower(), ""
        if PROBLEM in about:
            state, note = "failed", str(about[PROBLEM])
        elif trial.state == TrialState.PRUNED:
            state = "pruned" if about.get("stopped_by") == "pruned" else "diverged"
            note = f"after epoch {about.get('epochs_done', '?')} of {about.get('epochs', '?')}"
        return cls(slot.number, state, note, trial.value if slot.ended else None, values, about)

    @property
    def complete(self) -> bool:
        """Whether all of its runs have ended as planned."""
        return self.state == "complete"


@dataclass(frozen=True)
class Result:
    """The trials of a sweep."""

    sweep: Sweep
    rows: tuple[Row, ...]
    data: str

    @property
    def ranked(self) -> list[Row]:
        """The complete trials, best first."""
        complete = [row for row in self.rows if row.complete and row.score is not None]
        return sorted(complete, key=lambda row: (-1 if self.sweep.maximise else 1) * (row.score or 0.0))

    @property
    def counts(self) -> str:
        """How many trials ended how, in words: "9 complete, 3 pruned"."""
        states = dict.fromkeys(row.state for row in self.rows)
        return ", ".join(f"{sum(row.state == state for row in self.rows)} {state}" for state in states)

    def score_text(self, score: float | None) -> str:
        """A score in the unit of the metric."""
        if score is None:
            return "-"
        return f"{score:.2%}" if self.sweep.maximise else f"{score:.4f}"

    def table(self) -> Table:
        """The best trials."""
        kind = "validation accuracy" if self.sweep.maximise else "validation loss"
        seeds = self.sweep.config.seeds
        of_seeds = "" if seeds == 1 else f", mean of {seeds} seeds"
        caption = f"score: {kind} on {self.sweep.config.holdout:,} images held out of training{of_seeds}; s, TFLOP: of "
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=f"{caption}training, per run")
        for name in ("trial", "score", "epochs", "s", "TFLOP"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("values", overflow="fold")
        for row in self.ranked[:SHOWN]:
            seconds, tera = row.about["train_seconds"], row.about["training_flop"] / 1e12
            cells = (str(row.number), self.score_text(row.score), str(row.about["epochs"]), f"{seconds:,.1f}")
            table.add_row(*map(Text, (*cells, f"{tera:,.3g}", values_text(row.values))))
        return table

    def write(self, folder: Path) -> None:
        """Writes sweep.csv, sweep.json and, if a trial is complete, best.yaml."""
        about = {"sweep": self.sweep.tree(), "data": self.data, "environment": environment(self.data).tree()}
        trials = [
            {"trial": row.number, "state": row.state, "note": row.note, "score": row.score, "values": row.values}
            | row.about
            for row in self.rows
        ]
        write_text(folder / "sweep.json", json.dumps(about | {"trials": trials}, indent=1) + "\n")
        write_text(folder / "sweep.csv", self._csv())
        if self.ranked:
            write_text(folder / "best.yaml", self._best_yaml())

    def _csv(self) -> str:
        figures = ("epochs", "epochs_done", "relative_time", "train_seconds", "training_flop", "parameters")
        fields = [axis.field for axis in self.sweep.axes]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", "state", "note", self.sweep.config.metric, *figures, *fields])
        for row in self.rows:
            own = [row.about.get(name, "") for name in figures] + [shown(row.values.get(name, "")) for name in fields]
            writer.writerow([row.number, row.state, row.note, "" if row.score is None else row.score, *own])
        return stream.getvalue()

    def _best_yaml(self) -> str:
        """The best configuration as `dynconv train --config` takes it, for training on all images."""
        best = self.ranked[0]
        config = self.sweep.trial_config(best.values, epochs=best.about["epochs"])
        tree = config.model_dump(mode="json") | {"holdout": 0, "tta": self.sweep.tta}
        score = self.score_text(best.score)
        return f"# trial {best.number}, {self.sweep.config.metric} {score}\n{yaml.safe_dump(tree, sort_keys=False)}"

    def tidy(self, folder: Path) -> None:
        """Deletes weights, predictions and training state of ended trials, but the weights of the best one."""
        best = self.ranked[0].number if self.ranked else None
        for row in self.rows:
            if row.state in ("running", "waiting"):
                continue
            for run in folder.glob(f"{run_name(row.number, 0).removesuffix('0')}*"):
                remove_state(run / "state.pt")
                if row.number != best:
                    (run / "weights.safetensors").unlink(missing_ok=True)
                    (run / "predictions.npz").unlink(missing_ok=True)


def values_text(values: dict[str, Any]) -> str:
    """Searched values in short: "lr 0.12, experts 2"."""
    leaves = [name.rpartition(".")[2] for name in values]
    names = [leaf if leaves.count(leaf) == 1 else name for leaf, name in zip(leaves, values, strict=True)]
    return ", ".join(f"{name} {number_text(value)}" for name, value in zip(names, values.values(), strict=True))


def number_text(value: Any) -> str:
    """A searched value in at most four digits."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(number_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
