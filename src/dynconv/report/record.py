"""Reads a run directory once: everything readable, and one line for each problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import Config, Environment, EpochLine, Summary, WarningLine
from dynconv.artifacts.rundir import Metrics, RunDir
from dynconv.errors import DynconvError

Value = TypeVar("Value")


@dataclass(frozen=True)
class RunRecord:
    """The files of a run. What could not be read is empty or None, and `problems` says why."""

    path: Path
    config: Config
    environment: Environment | None = None
    summary: Summary | None = None
    epochs: list[EpochLine] = field(default_factory=list)
    warnings: list[WarningLine] = field(default_factory=list)
    predictions: Predictions | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run directory's name."""
        return self.path.resolve().name

    @property
    def data_name(self) -> str:
        """The name of the data set; "?" if no file contains it."""
        known = [each.data for each in (self.summary, self.environment, *self.epochs) if each and each.data]
        return known[0] if known else "?"

    @property
    def title(self) -> str:
        """The title of the page and of the curves."""
        return f"{self.config.preset} on {self.data_name}, seed {self.config.seed}"

    @property
    def accuracy(self) -> float | None:
        """The final test accuracy, 0..1: with test-time augmentation if the run reports it."""
        return self.summary.best_accuracy if self.summary else None

    @property
    def machine(self) -> str:
        """The GPUs or else the processor that the run used; "?" if unknown."""
        return ", ".join(self.environment.gpus) or self.environment.processor or "?" if self.environment else "?"


def read_record(path: Path) -> RunRecord:
    """Reads a run directory without its weights.

    Raises:
        DynconvError: `path` is not a run directory, or its configuration, on which everything depends, is damaged.
    """
    run = RunDir.open(path)
    problems: list[str] = []
    summary = attempt(run.summary, None, problems)
    if summary is None and not problems:
        problems.append(f"{run.path}/summary.json: missing, so the run has not ended")
    metrics = attempt(run.metrics, Metrics([], [], [], []), problems)
    file = f"{run.path}/metrics.jsonl"
    if metrics.damaged:
        problems.append(f"{file}: {len(metrics.damaged)} damaged lines are left out; the first is {metrics.damaged[0]}")
    if not metrics.epochs:
        problems.append(f"{file}: holds no complete epoch")
    alike = [line for line in metrics.epochs if _groups(line) == _groups(metrics.epochs[0])]
    if len(alike) < len(metrics.epochs):
        problems.append(f"{file}: epochs of another network are left out")
    return RunRecord(
        path=path,
        config=run.config,
        environment=attempt(lambda: run.environment, None, problems),
        summary=summary,
        epochs=alike,
        warnings=metrics.warnings,
        predictions=attempt(run.predictions, None, problems),
        problems=problems,
    )


def _groups(line: EpochLine) -> tuple[list[str], int]:
    """What the curves depend on: the names of the learning rates, and the number of blocks with routing."""
    return list(line.lr), len(line.routing)


def attempt(what: Callable[[], Value], otherwise: Value, problems: list[str]) -> Value:
    """Returns `what()`; on a DynconvError, appends it to `problems` and returns `otherwise`."""
    try:
        return what()
    except DynconvError as error:
        problems.append(str(error))
        return otherwise
