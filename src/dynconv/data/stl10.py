"""STL-10, the labelled images: the official binary version, 96x96 pixels, 5,000 for training and 8,000 for testing.

Coates et al. 2011, https://cs.stanford.edu/~acoates/stl10/. The 100,000 images without labels are not used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dynconv.data import archive
from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.download import Official
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set, form
from dynconv.errors import escaped

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
FOLDER, ARCHIVE = "stl10_binary", "stl10_binary.tar.gz"
OFFICIAL = Official(
    "stl10", {ARCHIVE: "91f7769df0f17e558f3565bffb0c7dfb"}, 2640, ("http://ai.stanford.edu/~acoates/stl10/",)
)
_SIDE = 96
_PIXELS = 3 * _SIDE * _SIDE


def find(path: Path) -> Path | None:
    """The archive, or the folder with at least one of the files, at or under `path`; None if there is none."""
    if path.is_file():
        return path if path.name == ARCHIVE else None
    for folder in (path, path / FOLDER):
        if any((folder / name).is_file() for name in FILES):
            return folder
    return path / ARCHIVE if (path / ARCHIVE).is_file() else None


@form(f"{FOLDER}/ or {ARCHIVE}", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads what `find` found.

    Raises:
        DataError: a file is missing, truncated, or not what the official ones contain; the error names it.
    """
    found = archive.files(path, FILES, archive.LARGEST_FILE, archive.LARGEST_IMAGES)
    if missing := [name for name in FILES if name not in found]:
        raise DataError(f"{escaped(str(path))}: {', '.join(missing)} missing; copy the whole data set again")
    train, test = (
        _split(escaped(f"{path}/{name}"), found[f"{name}_X.bin"], found[f"{name}_y.bin"]) for name in ("train", "test")
    )
    return Dataset("stl10", CLASSES, train, test, str(path))


@data_set("stl10", "STL-10", CLASSES, archive=ARCHIVE, train_images=5_000)
def stl10(_: int, wanted: DataConfig) -> Dataset:
    """STL-10, downloaded to the cache (2.6 GB); the seed is ignored. Raises DataError."""
    return read(OFFICIAL.download() / ARCHIVE, wanted)


def _split(where: str, pixels: bytes, labels: bytes) -> Split:
    count, rest = divmod(len(pixels), _PIXELS)
    if rest or not count:
        raise DataError(f"{where}_X.bin: has {len(pixels):,} bytes, needs a multiple of {_PIXELS:,}; copy it again")
    if len(labels) != count:
        raise DataError(f"{where}_y.bin: has {len(labels):,} labels, but there are {count:,} images; copy it again")
    numbers = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    if numbers.min() < 0 or numbers.max() >= len(CLASSES):
        raise DataError(f"{where}_y.bin: labels must run from 1 to {len(CLASSES)}")
    by_column = np.frombuffer(pixels, np.uint8).reshape(count, 3, _SIDE, _SIDE)
    return Split(torch.from_numpy(by_column.transpose(0, 1, 3, 2).copy()), torch.from_numpy(numbers))
