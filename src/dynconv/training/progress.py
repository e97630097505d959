"""What one sees while it trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from dynconv.artifacts.records import EpochLine

_PLAIN_INTERVAL = 30.0  # seconds between two plain lines within an epoch


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
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=16),
            TextColumn("loss {task.fields[loss]}  {task.fields[accuracy]}  {task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._steps = self._epochs = self._first_step = 0
        self._test_accuracy = ""  # of the last epoch that has ended, in words
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
            "", total=total_steps, completed=start_step, epoch=1, epochs=epochs, loss="-", accuracy="-", speed="-"
        )

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """After step `step` (from 1); `accuracy` on the training images of its epoch so far, 0..1."""
        epoch = (step - 1) * self._epochs // self._steps + 1
        shown = f"accuracy {accuracy:.1%}{self._test_accuracy}"
        speed = f"{images_per_second:,.0f}"
        self._bar.update(self._task, completed=step, epoch=epoch, loss=f"{loss:.3f}", accuracy=shown, speed=speed)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _PLAIN_INTERVAL:
            left = (time.monotonic() - self._began) / (step - self._first_step) * (self._steps - step)
            self._message(
                f"  step {step}/{self._steps}  loss {loss:.3f}  {images_per_second:,.0f} images/s  {_clock(left)} left"
            )

    def epoch(self, line: EpochLine, *, whole: bool = True) -> None:
        """After an epoch, or after the part of one that was interrupted: a line that stays."""
        name, accuracy = "test", line.test_accuracy
        if line.validation_accuracy is not None:  # with a hold-out, that is what to look at
            name, accuracy = "validation", line.validation_accuracy
        self._test_accuracy = f", {name} {accuracy:.1%}"
        if not self._epoch_lines:
            return
        validation = "" if line.validation_accuracy is None else f"  validation accuracy {line.validation_accuracy:.2%}"
        self._message(
            f"epoch {line.epoch:>3}/{self._epochs}{'' if whole else ' (interrupted)'}  {line.image_size} px"
            f"  training loss {line.train_loss:.3f} accuracy {line.train_accuracy:.2%}"
            f"  test loss {line.test_loss:.3f} accuracy {line.test_accuracy:.2%}{validation}"
            f"  {line.images_per_second:,.0f} images/s  {_clock(line.seconds)}"
        )

    def _message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
