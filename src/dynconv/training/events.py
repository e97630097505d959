"""TensorBoard event files of a run's metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynconv.artifacts.rundir import cannot_go_on

_NOT_SCALARS = {"kind", "data", "step", "lr", "routing"}


class EventLog:
    """Writes metrics records as scalars, by step. Raises DynconvError where the disk is full."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._folder = folder
        self._hook, threading.excepthook = threading.excepthook, self._leave_to_the_next_record
        with self._writing():
            self._writer = SummaryWriter(str(folder))

    def record(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl: step/loss, epoch/test_accuracy, lr/experts, routing/block1/entropy, ..."""
        with self._writing():
            self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        if record["kind"] == "warning":
            self._writer.add_text("warning", record["text"], record["step"])
            return
        for name, value in record.items():
            if name not in _NOT_SCALARS:
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        if record["kind"] == "step":
            for name, rate in record["lr"].items():
                self._writer.add_scalar(f"lr/{name}", rate, record["step"])
        for block in record.get("routing", ()):
            for name in ("entropy", "std"):
                self._writer.add_scalar(f"routing/block{block['block']}/{name}", block[name], record["step"])

    def close(self) -> None:
        """Flushes and closes the files."""
        with self._writing():
            self._writer.close()
        threading.excepthook = self._hook

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            threading.excepthook = self._hook
            raise cannot_go_on(self._folder, error) from error

    def _leave_to_the_next_record(self, failed: threading.ExceptHookArgs) -> None:
        """Prints no stack trace of the writer's thread where the disk is full: the next record raises its error."""
        if not issubclass(failed.exc_type, OSError):
            self._hook(failed)
