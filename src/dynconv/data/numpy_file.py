"""Reads numeric arrays from `.npy` files and `.npz` archives, with memory bounded by their size on disk.

A header of 128 bytes can claim 10^12 images, and a megabyte of deflated zeros holds a gigabyte. The header is therefore
checked against the actual size before memory is allocated, and the expansion of an archive is limited. Objects, which
NumPy would unpickle, are refused.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from dynconv.data.dataset import DataError
from dynconv.data.expansion import check_expansion
from dynconv.errors import escaped

LARGEST = 4 << 30
"""Maximum bytes of one array in any file: 1.4 million images of 32x32. A sparse file takes no space on disk."""
NUMBERS = "biuf"
"""Whole and fractional numbers and truth values, as NumPy's `dtype.kind` names them."""


def load(path: Path) -> np.ndarray:
    """The array in a `.npy` file. Raises DataError if it is damaged, not numeric, or its header claims too much."""
    where = escaped(str(path))
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, NUMBERS)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # NumPy parses headers as Python literals, which can fail in many ways
        raise DataError(f"{where}: truncated or not an array of numbers ({_reason(error)}); save it again") from error


def load_archive(path: Path, names: Collection[str], kinds: str = NUMBERS) -> dict[str, np.ndarray]:
    """The arrays in a `.npz` file whose names are in `names`, by name. Raises DataError as `load` does.

    Args:
        kinds: the accepted types, as NumPy's `dtype.kind` names them.
    """
    where = escaped(str(path))
    arrays: dict[str, np.ndarray] = {}
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in archive.namelist()}
            check_expansion(
                where,
                sum(member.file_size for member in members.values()),
                size,
                "if this is intended, save it as .npy files",
            )
            for name, member in members.items():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name} is compressed in a way that NumPy does not write")
                with archive.open(member) as file:
                    arrays[name] = _read(file, member.file_size, kinds)
                    while file.read(1 << 20):  # up to the checksum at the end
                        pass
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own exceptions
        raise DataError(f"{where}: truncated or not an .npz of numbers ({_reason(error)}); save it again") from error
    return arrays


def _read(file: IO[bytes], size: int, kinds: str) -> np.ndarray:
    """The array in the `size` bytes of `file`. Raises ValueError, or whatever NumPy raises for a damaged header."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format, which no numeric array needs")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in kinds:
        raise ValueError(f"an array of {dtype}")
    if any(side < 0 for side in shape):
        raise ValueError(f"the shape {shape}")
    count = math.prod(shape)
    if size >= count * dtype.itemsize > LARGEST:
        raise ValueError(f"{count * dtype.itemsize:,} bytes, more than {LARGEST:,}; use fewer images")
    if count * dtype.itemsize > size:
        raise ValueError(f"its header claims {count:,} numbers, more than the {size:,} bytes hold")
    flat = np.empty(count, dtype)
    content = flat.view(np.uint8).data
    filled = 0
    while filled < len(content):
        piece = file.read(min(len(content) - filled, 1 << 20))
        if not piece:
            raise ValueError(f"it ends after {filled:,} of {len(content):,} bytes")
        content[filled : filled + len(piece)] = piece
        filled += len(piece)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _reason(error: Exception) -> str:
    lines = escaped(str(error).split("\n")[0])[:200]
    return lines or type(error).__name__
