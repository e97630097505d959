"""A run directory as the report reads it: all that can be read, and a line for each thing that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from dynconv.artifacts.rundir import Predictions, RunDir, damage_of_epoch
from dynconv.config import RunConfig
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.inference.evaluate import load_dataset
from dynconv.inference.predictor import Classifier

Value = TypeVar("Value")


@dataclass(frozen=True)
class Record:
    """What a run left. What could not be read is empty or None, and `problems` says why.

    Attributes:
        epochs, warnings: the records of metrics.jsonl of these kinds.
    """

    path: Path
    config: RunConfig
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    predictions: Predictions | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run directory's name."""
        return self.path.resolve().name

    @property
    def data_name(self) -> str:
        """The name of the data set; "?" where no file tells."""
        found = [self.summary.get("data"), self.environment.get("data"), *(epoch.get("data") for epoch in self.epochs)]
        return next((str(name) for name in found if name), "?")

    @property
    def accuracy(self) -> float | None:
        """The final test accuracy, 0..1: with test-time augmentation if the run reports it."""
        tta = self.summary.get("test_accuracy_tta")
        return self.summary.get("test_accuracy") if tta is None else tta


def read_record(path: Path) -> Record:
    """Reads a run directory without its weights.

    Raises:
        DynconvError: `path` is no run directory, or its configuration is damaged, without which nothing can be said.
    """
    run = RunDir.open(path)
    problems: list[str] = []
    summary = _read(run.summary, None, problems)
    if summary is None and not problems:
        problems.append(f"{run.path}/summary.json: missing, so the run has not ended")
    metrics: list[dict[str, Any]] = _read(run.metrics, [], problems)
    epochs = [record for record in metrics if record["kind"] == "epoch"]
    damages = [damage_of_epoch(record) for record in epochs]
    whole = [record for record, damage in zip(epochs, damages, strict=True) if damage is None]
    if any(damages):
        first = next(filter(None, damages))
        problems.append(f"{run.path}/metrics.jsonl: {len(epochs) - len(whole)} epochs are damaged and left out {first}")
    if not whole:
        problems.append(f"{run.path}/metrics.jsonl: holds no whole epoch")
    alike = [record for record in whole if _groups(record) == _groups(whole[0])]
    if len(alike) < len(whole):
        problems.append(f"{run.path}/metrics.jsonl: epochs of another network are left out")
    return Record(
        path=path,
        config=run.config,
        environment=_read(run.environment, {}, problems),
        summary=summary or {},
        epochs=alike,
        warnings=[record for record in metrics if record["kind"] == "warning"],
        predictions=_read(run.predictions, None, problems),
        problems=problems,
    )


def _groups(record: dict[str, Any]) -> tuple[list[str], int]:
    """What the curves of an epoch are drawn by: its learning rates' names, and how many blocks it routes."""
    return list(record["lr"]), len(record["routing"])


def load_network(record: Record) -> Classifier | None:
    """The trained network; None, and a problem more, where it cannot be loaded."""
    return _read(lambda: Classifier.load(record.path), None, record.problems)


def load_images(
    record: Record, classifier: Classifier, source: str | None, announce: Callable[[str], None]
) -> Dataset | None:
    """The data set of the run; None, and a problem more, where it is not at hand or not the one of the predictions."""
    dataset = _read(lambda: load_dataset(classifier, source, announce), None, record.problems)
    if dataset and record.predictions and not torch.equal(dataset.test.labels.cpu(), record.predictions.labels):
        record.problems.append(f"{dataset.origin}: its test labels are not those of predictions.npz; name --data")
        return None
    return dataset


def _read(what: Callable[[], Value], otherwise: Value, problems: list[str]) -> Value:
    try:
        return what()
    except DynconvError as error:
        problems.append(str(error))
        return otherwise
