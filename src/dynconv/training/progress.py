"""What one sees while it trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from dynconv.artifacts.records import EpochLine

_PLAIN_INTERVAL = 30.0  # seconds between two plain lines within an epoch
_WIDE = 110  # characters: room for the speed and a bar of some length
_ROW = "{:<8}{:>7}{:>12}{:>9}{:>16}{:>9}{:>10}{:>7}"


class Progress:
    """A context manager that the trainer reports to.

    Args:
        console: where to print; by default standard error. Give the one that log messages go to, too: lines printed
            past a live line break it.
        epoch_lines: whether to print a line after each epoch.
    """

    def __init__(self, console: Console | None = None, *, epoch_lines: bool = True) -> None:
        self._epoch_lines = epoch_lines
        self._console = console or Console(stderr=True, highlight=False)
        wide = self._console.width >= _WIDE
        self._bar = Bar(
            _column("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=16 if wide else None, table_column=Column(ratio=1)),
            _column("loss {task.fields[loss]} {task.fields[accuracy]}"),
            *([_column("{task.fields[speed]} images/s")] if wide else []),
            _column("{task.fields[times]}"),
            console=self._console,
            expand=not wide,
            disable=not self._console.is_terminal,
        )
        self._steps = self._epochs = self._first_step = 0
        self._tested = ""  # the accuracy after the last epoch, in words
        self._headed = False
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, total_steps: int, epochs: int, start_step: int = 0) -> None:
        """Before the first step; start_step > 0 where a run is resumed."""
        self._steps, self._epochs, self._first_step = total_steps, epochs, start_step
        self._began = self._last_line = time.monotonic()
        self._task = self._bar.add_task(
            "", total=total_steps, completed=start_step, epoch=1, epochs=epochs, loss="-", accuracy="", speed="-",
            times="",
        )  # fmt: skip

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """After step `step` (from 1); `accuracy` on the training images of its epoch so far, 0..1."""
        epoch = (step - 1) * self._epochs // self._steps + 1
        elapsed = time.monotonic() - self._began
        left = elapsed / (step - self._first_step) * (self._steps - step)
        self._bar.update(
            self._task, completed=step, epoch=epoch, loss=f"{loss:.3f}", speed=f"{images_per_second:,.0f}",
            accuracy=f"train {accuracy:.1%}{self._tested}", times=f"{_clock(elapsed)} elapsed, {_clock(left)} left",
        )  # fmt: skip
        if not self._console.is_terminal and time.monotonic() - self._last_line > _PLAIN_INTERVAL:
            self._message(
                f"  step {step}/{self._steps}  loss {loss:.3f}  {images_per_second:,.0f} images/s  {_clock(left)} left"
            )

    def testing(self) -> None:
        """While the network is evaluated, which may take long."""
        if self._steps:
            self._bar.update(self._task, times=f"{_clock(time.monotonic() - self._began)} elapsed, testing")

    def epoch(self, line: EpochLine, *, whole: bool = True) -> None:
        """After an epoch, or after the part of one that was interrupted: a row that stays.

        With a hold-out, its figures take the place of those of the test set, which is not for choosing by.
        """
        name, loss, accuracy = "test", line.test_loss, line.test_accuracy
        if line.validation_loss is not None and line.validation_accuracy is not None:
            name, loss, accuracy = "hold-out", line.validation_loss, line.validation_accuracy
        self._tested = f" {name} {accuracy:.1%}"
        if not self._epoch_lines:
            return
        if not self._headed:
            self._headed = True
            self._message(_ROW.format("epoch", "pixels", "train: loss", "accuracy", f"{name}: loss", "accuracy",
                                      "images/s", "time"))  # fmt: skip
        self._message(_ROW.format(
            f"{line.epoch:>3}/{self._epochs}", line.image_size, f"{line.train_loss:.3f}", f"{line.train_accuracy:.2%}",
            f"{loss:.3f}", f"{accuracy:.2%}", f"{line.images_per_second:,.0f}", _clock(line.seconds),
        ))  # fmt: skip
        if not whole:
            self._message(f"interrupted: epoch {line.epoch} is not whole")

    def _message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()


def _column(text: str) -> TextColumn:
    return TextColumn(text, table_column=Column(no_wrap=True))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
