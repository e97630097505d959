"""Ctrl-C, and the signals by which a scheduler ends a process: heard between the steps of a training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dynconv.errors import DynconvError

NOTICES = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""The signals by which a scheduler says that it is about to end a process."""


class NoticeError(DynconvError):
    """The system is about to end this process. The command's exit code tells that the run can go on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Signals:
    """Ctrl-C and the notices of schedulers, heard once each: a second one acts as it would without us.

    Attributes:
        heard: the first signal that has come; None so far.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._raising: tuple[signal.Signals, ...] = ()

    @contextmanager
    def at_once(self, *, interrupt: bool = False) -> Iterator[None]:
        """Within, a notice does not wait until somebody looks, nor does Ctrl-C if `interrupt`.

        Raises:
            NoticeError, KeyboardInterrupt: when the signal comes, or a notice that has come before.
        """
        self._raising = (*NOTICES, signal.SIGINT) if interrupt else NOTICES
        try:
            if self.heard is not None and self.heard in NOTICES:
                self.hear(self.heard)
            yield
        finally:
            self._raising = ()

    def hear(self, number: int) -> None:
        """To be called when a signal comes."""
        self.heard = self.heard or signal.Signals(number)
        if number in self._raising:
            raise KeyboardInterrupt if number == signal.SIGINT else NoticeError(f"stopped by {self.heard.name}")


@contextmanager
def heard_signals() -> Iterator[Signals]:
    """Turns the first Ctrl-C, and a scheduler's notice, into something that is looked at between steps."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield signals
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *NOTICES)}

    def hear(number: int, frame: object) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        signals.hear(number)

    for number in previous:
        signal.signal(number, hear)
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
