"""TensorBoard event files of a run's metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dynconv.artifacts.records import Line, Summary, WarningLine
from dynconv.training.logs import scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class EventLog:
    """Writes metrics records as scalars, by step. Where it cannot, as on a full disk, it says so and stops: the same
    records are in metrics.jsonl, so training need not end for it.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._folder = folder
        self._hook, threading.excepthook = threading.excepthook, self._leave_to_the_next_record
        self._writer: SummaryWriter | None = None
        with self._writing():
            self._writer = SummaryWriter(str(folder))

    def record(self, line: Line) -> None:
        """A line of metrics: its numbers as scalars, a warning as text."""
        with self._writing():
            if self._writer and isinstance(line, WarningLine):
                self._writer.add_text("warning", line.text, line.step)
            elif self._writer:
                for name, value in scalars(line).items():
                    self._writer.add_scalar(name, value, line.step)

    def close(self, summary: Summary | None) -> None:
        """Flushes and closes the files. The last epoch has the figures of the summary already."""
        with self._writing():
            if self._writer:
                self._writer.close()
        threading.excepthook = self._hook

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning(
                "%s: cannot be written (%s); training goes on without what TensorBoard shows",
                self._folder,
                error.strerror,
            )

    def _leave_to_the_next_record(self, failed: threading.ExceptHookArgs) -> None:
        """Prints no stack trace of the writer's thread where the disk is full: the next record raises its error."""
        if not issubclass(failed.exc_type, OSError):
            self._hook(failed)
