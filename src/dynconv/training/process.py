"""The process that trains: where its images lie, what its allocator keeps, how torch computes, its peak memory."""

from __future__ import annotations

import ctypes
import os
import sys
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


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None on Windows, which has no getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
