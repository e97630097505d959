"""Class folders of images: `train/CLASS/*.png` and `test/CLASS/*.png`; `val/` where there is no `test/`.

Classes are the folders' names, sorted. Names that begin with a dot, and files that are no PNG, JPEG or WebP by their
ending, are passed over. What becomes of an image of another size, transparent or grey, is said in `data.image`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.image import ENDINGS, read_image


def find(path: Path) -> Path | None:
    """`path` if it holds a folder `train` and one of `test` and `val`; else None."""
    splits = (path / "test").is_dir() or (path / "val").is_dir()
    return path if (path / "train").is_dir() and splits else None


def read(path: Path) -> Dataset:
    """Reads both splits.

    Raises:
        DataError: a class is missing from one split or has no images, or an image is damaged; names it.
    """
    train = path / "train"
    test = path / "test" if (path / "test").is_dir() else path / "val"
    classes = _folders(train)
    if len(classes) < 2:
        raise DataError(f"{train}: has {len(classes)} class folders, needs two or more")
    for here, there in ((train, test), (test, train)):
        if missing := sorted(set(_folders(there)) - set(_folders(here))):
            raise DataError(f"{here}: class {', '.join(missing)} missing, which {there.name}/ has; give both the same")
    name = "cifar10" if classes == CLASSES else path.resolve().name
    return Dataset(name, classes, _read_split(train, classes), _read_split(test, classes), str(path))


def _folders(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _read_split(path: Path, classes: tuple[str, ...]) -> Split:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            file
            for file in (path / name).iterdir()
            if file.suffix.lower() in ENDINGS and file.name[0] != "." and file.is_file()
        )
        if not found:
            raise DataError(f"{path / name}: holds no PNG, JPEG or WebP image")
        files += found
        labels += [label] * len(found)
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(read_image, files)))
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))
