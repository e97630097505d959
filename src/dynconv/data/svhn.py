"""SVHN, cropped digits: train_32x32.mat and test_32x32.mat, MATLAB files of level 5.

Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/. The reader knows what these files consist of, arrays of
bytes and numbers, plain or compressed, and nothing else of MATLAB's format.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.download import Official
from dynconv.data.expansion import largest
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set, form
from dynconv.errors import escaped

CLASSES = tuple("0123456789")
FILES = ("train_32x32.mat", "test_32x32.mat")
OFFICIAL = Official(
    "svhn",
    {FILES[0]: "e26dedcc434d2e4c54c9b2d4a06d8373", FILES[1]: "eb5a983be6a315427106f1b164d9cef3"},
    246,
    ("http://ufldl.stanford.edu/housenumbers/",),
)

_HEADER = 128
_LARGEST = 1 << 31  # bytes of all compressed arrays; that of all official images has 1.6 billion
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 9: "<f8"}
"""The types of elements, as MATLAB numbers and NumPy names them."""


def find(path: Path) -> Path | None:
    """`path` if it holds at least one of the files; else None."""
    return path if any((path / name).is_file() for name in FILES) else None


@form(f"{FILES[0]} and {FILES[1]} (SVHN)", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads both files.

    Raises:
        DataError: a file is missing, damaged, or holds something else; the error names it.
    """
    if missing := [name for name in FILES if not (path / name).is_file()]:
        raise DataError(f"{escaped(str(path))}: {', '.join(missing)} missing; copy the whole data set again")
    train, test = (_split(path / name) for name in FILES)
    return Dataset("svhn", CLASSES, train, test, str(path))


@data_set("svhn", "SVHN", CLASSES, archive=f"{FILES[0]} and {FILES[1]}", mirrored=False, train_images=73_257)
def svhn(_: int, wanted: DataConfig) -> Dataset:
    """SVHN without its extra images, downloaded to the cache; the seed is ignored. Raises DataError."""
    return read(OFFICIAL.download(), wanted)


def _split(path: Path) -> Split:
    where = escaped(str(path))
    try:
        arrays = dict(_arrays(path.read_bytes()))
    except (struct.error, zlib.error, ValueError, IndexError, EOFError) as error:
        raise DataError(f"{where}: truncated or damaged ({escaped(str(error))}); copy it again") from error
    if not {"X", "y"} <= arrays.keys():
        raise DataError(f"{where}: holds no arrays X and y; this is not a file of SVHN")
    images_HWCN, labels = arrays["X"], arrays["y"].reshape(-1)
    if images_HWCN.dtype != np.uint8 or images_HWCN.shape != (32, 32, 3, len(labels)) or not len(labels):
        raise DataError(f"{where}: X is {images_HWCN.dtype} {list(images_HWCN.shape)}, must be uint8 [32, 32, 3, N]")
    if not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{where}: labels must run from 1 to 10")
    images = torch.from_numpy(np.ascontiguousarray(images_HWCN.transpose(3, 2, 0, 1)))
    return Split(images, torch.from_numpy(labels.astype(np.int64) % 10))  # 10 stands for the digit 0


def _arrays(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The numeric arrays of a file, by name."""
    if data[126:128] != b"IM":  # written on a machine with little-endian numbers
        raise ValueError("no MATLAB file of level 5")
    left = min(_LARGEST, largest(len(data)))
    for kind, content in _elements(memoryview(data)[_HEADER:]):
        if kind == _COMPRESSED:
            whole = zlib.decompressobj().decompress(content, left + 1)
            left -= len(whole)
            if left < 0:
                raise ValueError(f"arrays of more than {min(_LARGEST, largest(len(data))):,} bytes")
            for inner_kind, inner in _elements(memoryview(whole)):
                if inner_kind == _MATRIX:
                    yield _matrix(inner)
        elif kind == _MATRIX:
            yield _matrix(content)


def _matrix(data: memoryview) -> tuple[str, np.ndarray]:
    parts = list(_elements(data))
    if len(parts) < 4:
        raise ValueError("an array without flags, dimensions, name and numbers")
    (flags, _), (dimensions, sizes), (characters, name), (numbers, content) = parts[:4]
    if (flags, dimensions, characters) != (_UINT32, _INT32, _INT8) or numbers not in _NUMBERS:
        raise ValueError("an array of something else than numbers")
    shape = np.frombuffer(sizes, "<i4").tolist()
    values = np.frombuffer(content, _NUMBERS[numbers])
    if any(side < 0 for side in shape) or math.prod(shape) != len(values):
        raise ValueError("an array whose shape does not match its content")
    return bytes(name).decode("ascii"), values.reshape(shape, order="F")


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The elements in `data`: type, number of bytes, the bytes, and padding to a multiple of 8."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # a small element: both numbers in four bytes, and up to four bytes of content
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError("an element that ends after the file")
        yield kind, data[start : start + size]
        at = end
