"""The process that trains: where its images lie, what the allocator keeps, how signals are heard, what it took."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dynconv.data.dataset import Split
from dynconv.errors import DynconvError


def place(split: Split, device: torch.device) -> Split:
    """The split with its images and labels on `device`; uint8, so CIFAR-10 takes 180 MB.

    Where that would take more than half of what is free on a GPU, which the network needs too, it stays where it is.
    """
    if device.type == "cuda" and 2 * split.images.nbytes > torch.cuda.mem_get_info(device)[0]:
        return split
    return Split(split.images.to(device), split.labels.to(device))


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep large freed blocks for the next step.

    Taking them from the system again costs a page fault per 4 KiB, in small networks as long as the arithmetic.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


@contextmanager
def only_deterministic_algorithms() -> Iterator[None]:
    """Within, torch computes by algorithms that give the same bits each time.

    Raises:
        DynconvError: there is none for something on this device.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before it is first used
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise DynconvError(f"--deterministic: {str(error).splitlines()[0]}; train without it") from error
    finally:
        torch.use_deterministic_algorithms(before)


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


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None on Windows, which has no getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
