"""The official layouts of CIFAR-100: the python version (pickles) and the binary version, as folder or as archive.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html. The labels are the 100 fine classes. Nothing is trusted:
see `data.archive` and `data.batch_pickle`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dynconv.data import archive, batch_pickle
from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.download import Official
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set, form
from dynconv.errors import escaped

CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip
ARCHIVES = ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")
_FOLDERS = ("cifar-100-python", "cifar-100-binary")
_SPLITS = {"train": 50_000, "test": 10_000}
_PIXELS = 3 * 32 * 32
_LARGEST = 4 * archive.LARGEST_BATCH  # bytes of a file; the official one of the training images has 155 million

OFFICIAL = Official(
    "cifar100",
    {ARCHIVES[0]: "eb9058c3a382ffc7106e4002c42a8d85"},
    169,
    (f"https://www.cs.toronto.edu/~kriz/{ARCHIVES[0]}",),
)


def find(path: Path) -> Path | None:
    """The archive, or the folder with the files of both splits, at or under `path`; None if there is none."""
    if path.is_file():
        return path if path.name in ARCHIVES else None
    for folder in (path, *(path / name for name in _FOLDERS)):
        pickles = all((folder / name).is_file() for name in (*_SPLITS, "meta"))
        binaries = all((folder / f"{name}.bin").is_file() for name in _SPLITS)
        if pickles or (binaries and (folder / "fine_label_names.txt").is_file()):
            return folder
    return next((path / name for name in ARCHIVES if (path / name).is_file()), None)


@form(f"{' or '.join(ARCHIVES)}, packed or unpacked", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads what `find` found.

    Raises:
        DataError: a file is missing, truncated, or not what the official ones contain; the error names it.
    """
    names = [*_SPLITS, *(f"{name}.bin" for name in _SPLITS)]
    found = archive.files(path, names, _LARGEST)
    splits = []
    for name, count in _SPLITS.items():
        where = escaped(f"{path}/{name}")
        if name in found:
            images, labels = batch_pickle.load(where, found[name], "fine_labels", count)
        elif f"{name}.bin" in found:
            images, labels = _decode(f"{where}.bin", found[f"{name}.bin"], count)
        else:
            raise DataError(f"{where}: is missing; copy the whole data set again")
        if images.shape != (count, _PIXELS) or len(labels) != count:
            raise DataError(
                f"{where}: holds {len(images):,} images and {len(labels):,} labels, needs {count:,} of each"
            )
        if min(labels) < 0 or max(labels) >= len(CLASSES):
            raise DataError(f"{where}: its labels must run from 0 to {len(CLASSES) - 1}")
        pixels = torch.from_numpy(images.reshape(-1, 3, 32, 32))
        splits.append(Split(pixels, torch.tensor(labels, dtype=torch.int64)))
    train, test = splits
    return Dataset("cifar100", CLASSES, train, test, str(path))


@data_set("cifar100", "CIFAR-100", CLASSES, archive=ARCHIVES[0], train_images=50_000)
def cifar100(_: int, wanted: DataConfig) -> Dataset:
    """CIFAR-100, downloaded to the cache; the seed is ignored. Raises DataError."""
    return read(OFFICIAL.download() / ARCHIVES[0], wanted)


def _decode(where: str, data: bytes, count: int) -> tuple[np.ndarray, list[int]]:
    """A file of the binary version: coarse label, fine label and pixels of each image."""
    if len(data) != count * (2 + _PIXELS):
        raise DataError(f"{where}: has {len(data):,} bytes, needs {count * (2 + _PIXELS):,}; copy the file again")
    rows = np.frombuffer(data, np.uint8).reshape(count, 2 + _PIXELS)
    return rows[:, 2:].copy(), rows[:, 1].tolist()
