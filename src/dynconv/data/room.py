"""Where the images of a split lie: in memory, or, if they are many, in a file of which the system keeps what fits.

The file has no name, and is gone when the process ends. To everything else, such images are a tensor like others: what
an epoch shows, in which order and how augmented, does not depend on where they lie.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np
import torch
from torch import Tensor

from dynconv.data.places import cache_folder
from dynconv.errors import DynconvError

IN_MEMORY = 512 << 20
"""Bytes of images that are kept in memory: 174,000 of 32x32."""


def room_for(count: int, side: int) -> Tensor:
    """An uninitialised uint8 tensor [count, 3, side, side].

    Raises:
        DynconvError: the disk has too little space for the file.
    """
    shape, size = (count, 3, side, side), count * 3 * side * side
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
    except OSError as error:
        raise DynconvError(
            f"{folder}: cannot hold {size:,} bytes of images ({error.strerror}); free some space, or set "
            "XDG_CACHE_HOME to another folder"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Makes sure of the space: a mapped file that the disk cannot hold kills the process when it is written to."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    for start in range(0, size, 1 << 24):
        os.pwrite(file, bytes(min(1 << 24, size - start)), start)


def taken(images_N3HW: Tensor, which: Tensor) -> Tensor:
    """The images for which the boolean mask `which` [N] is true, in a room of their own."""
    chosen = which.nonzero()[:, 0]
    found = room_for(len(chosen), images_N3HW.shape[-1])
    for part, index in zip(found.split(10_000), chosen.split(10_000), strict=True):
        torch.index_select(images_N3HW, 0, index, out=part)
    return found
