"""The process that trains: where its images lie, what the allocator keeps, how Ctrl-C is heard, what memory it took."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from dynconv.data.dataset import Split


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
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag that is looked at between steps; a second one interrupts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield lambda: False
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, previous)


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None on Windows, which has no getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
