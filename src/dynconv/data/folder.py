"""Class folders of images: `train/CLASS/` and `test/CLASS/`, at any depth; `val/` if there is no `test/`.

Classes are the sorted names of the folders. An image belongs to the class whose folder contains it, at any depth. Files
with extensions other than `data.image.ENDINGS`, and names that begin with a dot, are skipped; a message counts them.
`data.image` describes how images of other sizes and transparent or grey images are converted.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset, Split, require_class_names
from dynconv.data.image import ENDINGS, SIZE, read_with_size
from dynconv.data.registry import form
from dynconv.data.room import room_for
from dynconv.errors import escaped

logger = logging.getLogger(__name__)

_MOST_NAMED = 5  # classes or extensions that a message lists
_READ_AT_ONCE = 10_000  # images that wait in memory to be stored


def find(path: Path) -> Path | None:
    """`path` if it contains a folder `train` and a folder `test` or `val`; else None."""
    splits = (path / "test").is_dir() or (path / "val").is_dir()
    return path if (path / "train").is_dir() and splits else None


def missing(path: Path) -> str | None:
    """If `path` holds part of this format: what is missing, and what to do. Else None."""
    if not path.is_dir():
        return None
    splits = [name for name in ("train", "test", "val") if (path / name).is_dir()]
    if splits == ["train"]:
        return "has train/, but neither test/ nor val/; move some images of each class to test/CLASS/"
    if splits:
        return f"has {'/ and '.join(splits)}/, but no train/; put the training images into train/CLASS/"
    classes = [name for name in _folders(path) if _has_image(path / name)]
    if len(classes) < 2:
        return None
    return (
        f"has class folders ({_listed(classes)}), but no train/ and test/ around them; move the class folders into "
        "train/, and some images of each class to test/CLASS/"
    )


@form("train/ and test/ with a folder for each class", find, missing)
def read(path: Path) -> Dataset:
    """Reads both splits.

    Raises:
        DataError: a class is missing from one split, has no images or an unprintable name, or an image is damaged; the
            error names it.
    """
    train = path / "train"
    test = path / "test" if (path / "test").is_dir() else path / "val"
    if all((path / split).is_dir() for split in ("test", "val")):
        logger.info(
            "%s: val/ is left out because there is test/; --holdout takes validation images from train/",
            escaped(str(path)),
        )
    classes = _folders(train)
    if len(classes) < 2:
        raise DataError(f"{escaped(str(train))}: has {len(classes)} class folders, needs two or more")
    require_class_names(classes, str(train))
    for here, there in ((train, test), (test, train)):
        if lacking := sorted(set(_folders(there)) - set(_folders(here))):
            raise DataError(
                f"{escaped(str(here))}: class {_listed(lacking)} missing, but {there.name}/ has it; make them agree"
            )
    found = {split: _images(split, classes) for split in (train, test)}
    _say_what_is_left_out(path, {split.name: left_out for split, (_, left_out) in found.items()})
    name = "cifar10" if classes == CLASSES else path.resolve().name
    splits = [_read_split(split, files) for split, (files, _) in found.items()]
    return Dataset(name, classes, splits[0], splits[1], str(path))


def _folders(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _has_image(folder: Path) -> bool:
    """Whether one of the first 1,000 entries is an image; a folder may hold millions."""
    return any(entry.suffix.lower() in ENDINGS for entry in itertools.islice(folder.iterdir(), 1000))


def _images(split: Path, classes: tuple[str, ...]) -> tuple[list[list[Path]], Counter[str]]:
    """The images of each class, sorted, and how many files were left out, by kind."""
    left_out = Counter(
        "hidden" if entry.name[0] == "." else "outside the class folders"
        for entry in split.iterdir()
        if entry.name[0] == "." or not entry.is_dir()
    )
    found = [_images_of_class(split / name, left_out) for name in classes]
    for name, files in zip(classes, found, strict=True):
        if not files:
            raise DataError(f"{escaped(str(split / name))}: holds no image, such as a .png or .jpg file")
    return found, left_out


def _images_of_class(folder: Path, left_out: Counter[str]) -> list[Path]:
    """The images below `folder`, following links but visiting each folder once; adds to `left_out`."""

    def refuse(error: OSError) -> None:
        raise error

    images: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(where).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        hidden = [name for name in (*folders, *files) if name[0] == "."]
        left_out["hidden"] += len(hidden)
        folders[:] = [name for name in folders if name[0] != "."]
        for path in (Path(where, name) for name in files if name[0] != "."):
            ending = path.suffix.lower()
            if ending not in ENDINGS:
                left_out[ending or "without an ending"] += 1
            elif not path.is_file():
                left_out["broken"] += 1  # a link to nothing, or a socket
            else:
                images.append(path)
    return sorted(images)


def _say_what_is_left_out(path: Path, left_out: dict[str, Counter[str]]) -> None:
    """Logs one line about the skipped files, or nothing if there are none."""
    parts = []
    for split, kinds in left_out.items():
        named = [f"{count} {escaped(kind)}" for kind, count in kinds.most_common(_MOST_NAMED) if count]
        rest = kinds.total() - sum(count for _, count in kinds.most_common(_MOST_NAMED))
        if named:
            parts.append(f"{split}/: {', '.join(named + ([f'{rest} others'] if rest else []))}")
    total = sum(kinds.total() for kinds in left_out.values())
    if total:
        files = "1 file" if total == 1 else f"{total:,} files"
        logger.warning("%s: %s left out (%s)", escaped(str(path)), files, "; ".join(parts))


def _read_split(path: Path, files: list[list[Path]]) -> Split:
    labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(of_class) for of_class in files]))
    images, others, largest = room_for(len(labels), SIZE), 0, (0, 0)
    paths = itertools.chain(*files)
    with ThreadPoolExecutor() as pool:
        for part in images.permute(0, 2, 3, 1).split(_READ_AT_ONCE):
            read = pool.map(read_with_size, itertools.islice(paths, len(part)))
            for place, (image, size) in zip(part.numpy(), read, strict=True):
                place[:] = image
                if size != (SIZE, SIZE):
                    others, largest = others + 1, max(largest, size, key=math.prod)
    if others:
        logger.warning(
            "%s: %s of %s images are not %dx%d pixels (the largest: %dx%d); each is scaled and cropped to that size",
            escaped(str(path)), f"{others:,}", f"{len(labels):,}", SIZE, SIZE, *largest,
        )  # fmt: skip
    return Split(images, labels)


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(map(escaped, names[:_MOST_NAMED])) + more
