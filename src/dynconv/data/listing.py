"""A list of image files with their classes, as folders, archives and tables give it -> a data set in memory."""

from __future__ import annotations

import itertools
import logging
import os
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dynconv.data.copies import CannotSplitError, Fingerprint, fingerprint, set_aside
from dynconv.data.dataset import DataError, Dataset, Split, require_class_names
from dynconv.data.frame import AUTO_SIZES, DataConfig, Frame
from dynconv.data.framing import HOW
from dynconv.data.image import read_picture, size_of
from dynconv.data.room import room_for, taken
from dynconv.data.tree import Content, Parts, Store
from dynconv.errors import escaped

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
_SPLIT_NAMES = {
    "train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST, "val": VALIDATION, "valid": VALIDATION,
    "validation": VALIDATION,
}  # fmt: skip

_MANY = 5_000  # images, which take so long to decode that it is said
_MEASURED = 500  # images whose headers tell the size to read all at
_AT_ONCE = 4 * (os.cpu_count() or 1)  # images that wait in memory to be decoded or stored
_MOST_NAMED = 5  # files or classes that a message names

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Listing:
    """Image files with their classes.

    Attributes:
        name, origin: those of the data set.
        tree: where the files are.
        classes: their names.
        files, labels: the images and their classes.
        splits: train, validation or test for each image; empty where it is not said, and content decides.
        problems: why it cannot be trained on, one line each, such as a class without images.
    """

    name: str
    origin: str
    tree: Store
    classes: tuple[str, ...]
    files: Sequence[Parts]
    labels: Sequence[int]
    splits: Sequence[str] = ()
    problems: Sequence[str] = ()


@dataclass
class Reading:
    """The images of a listing.

    Attributes:
        images: uint8 [N, 3, size, size]; those that could not be read are black.
        sizes: width and height in the file; None for those that could not be read.
        damaged: position and reason of each that could not be read.
        prints: position and fingerprint of each that could be read, if they were asked for.
    """

    listing: Listing
    frame: Frame
    images: Tensor
    sizes: list[tuple[int, int] | None]
    damaged: dict[int, str] = field(default_factory=dict)
    prints: dict[int, Fingerprint] = field(default_factory=dict)

    def known_prints(self, positions: Sequence[int]) -> list[Fingerprint]:
        """The fingerprints of these images, which were read."""
        return [self.prints[position] for position in positions]

    def splits(self) -> list[str]:
        """train, validation or test for each image: as the listing says, or else by the images' content.

        Raises:
            DataError: a class cannot be split.
        """
        if self.listing.splits:
            return list(self.listing.splits)
        read = sorted(self.prints)
        try:
            aside = set_aside(self.known_prints(read), [self.listing.labels[position] for position in read])
        except CannotSplitError as error:
            name = escaped(self.listing.classes[error.label])
            raise DataError(f"{escaped(self.listing.origin)}: class {name}: {error}") from None
        test = {position for position, is_aside in zip(read, aside, strict=True) if is_aside}
        return [TEST if position in test else TRAIN for position in range(len(self.listing.files))]


def split_of(name: str) -> str | None:
    """The split that a folder or a table calls so, in capitals or not; None if it is no name of a split."""
    return _SPLIT_NAMES.get(name.lower())


def in_order(label: str) -> tuple[int, int, str]:
    """A key that sorts classes named by numbers by their value, and before those named by text."""
    return (0, int(label), label) if label.isdecimal() and len(label) < 10 else (1, 0, label)


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(map(escaped, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")


def read(listing: Listing, wanted: DataConfig) -> Dataset:
    """The data set of a listing. Where it has no splits, a fifth of each class becomes the test split, by content.

    Raises:
        DataError: images cannot be read, or a class has none in a split; the error names them.
    """
    if listing.problems:
        raise DataError(listing.problems[0])
    _require_every_class(listing)
    reading = read_images(listing, wanted, prints=not listing.splits)
    if reading.damaged:
        raise DataError(_about_damage(listing, reading.damaged))
    _say_sizes(reading, wanted)
    labels, splits = torch.tensor(listing.labels, dtype=torch.int64), np.array(reading.splits())
    found = {}
    for split in SPLITS:
        which = torch.from_numpy(splits == split)
        if which.any():
            found[split] = Split(_part(reading.images, which), labels[which])
    if not listing.splits:
        logger.info(
            "%s: has no split of its own: %s images are for training and %s for testing, one of five of each class, by "
            "their content (the same with any seed; copies stay on one side, unless a class has nothing else)",
            escaped(listing.origin), f"{len(found[TRAIN].labels):,}", f"{len(found[TEST].labels):,}",
        )  # fmt: skip
    return Dataset(
        listing.name, listing.classes, found[TRAIN], found[TEST], listing.origin, found.get(VALIDATION), reading.frame,
        of_files=True,
    )  # fmt: skip


def read_images(listing: Listing, wanted: DataConfig, *, prints: bool) -> Reading:
    """Decodes every image, several at once; those that cannot be read are named in the result."""
    frame = _frame(listing, wanted)
    if len(listing.files) >= _MANY:
        logger.info("reading %s images from %s", f"{len(listing.files):,}", escaped(listing.origin))
    reading = Reading(listing, frame, room_for(len(listing.files), frame.size), [None] * len(listing.files))
    found = set[int]()
    places = reading.images.permute(0, 2, 3, 1).numpy()

    def decode(position: int, content: Content) -> tuple[np.ndarray, tuple[int, int], Fingerprint | None]:
        name = listing.tree.name_of(listing.files[position])
        if not prints:
            picture = read_picture(content, name)
            return np.asarray(frame.of(picture)), picture.size, None
        file = _bytes(content, name)
        picture = read_picture(BytesIO(file), name)
        return np.asarray(frame.of(picture)), picture.size, fingerprint(file, picture)

    for (position, _), made in _in_threads(lambda item: decode(*item), listing.tree.contents(listing.files)):
        try:
            pixels, reading.sizes[position], own = made()
        except DataError as error:
            reading.damaged[position] = str(error)
            places[position] = 0
            continue
        places[position] = pixels
        found.add(position)
        if own:
            reading.prints[position] = own
    for position in sorted(set(range(len(listing.files))) - found - reading.damaged.keys()):
        reading.damaged[position] = f"{listing.tree.name_of(listing.files[position])}: is gone from the archive"
    return reading


def _bytes(content: Content, name: str) -> bytes:
    try:
        return content.read_bytes() if isinstance(content, Path) else content.read()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error


def _in_threads(make: Callable[[Item], Made], items: Iterator[Item]) -> Iterator[tuple[Item, Callable[[], Made]]]:
    """Each item with a function that returns what `make` makes of it, in order; few items are in memory at a time."""
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    with ThreadPoolExecutor() as pool:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) >= _AT_ONCE:
                first, future = waiting.popleft()
                yield first, future.result
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result


def _frame(listing: Listing, wanted: DataConfig) -> Frame:
    """The frame to read at: the wanted size, or the one that suits the training images by their headers."""
    if wanted.size != "auto":
        return wanted.frame([])
    splits = listing.splits or [TRAIN] * len(listing.files)
    train = [file for file, split in zip(listing.files, splits, strict=True) if split == TRAIN]
    if listing.tree.in_any_order:
        train = train[:: max(1, len(train) // _MEASURED)]
    measured = (size_of(content) for _, content in itertools.islice(listing.tree.contents(train), _MEASURED))
    return wanted.frame(min(size) for size in measured if size)


def _part(images: Tensor, which: Tensor) -> Tensor:
    """The images for which the mask is true; the same memory where they lie together."""
    first, last = (int(which.nonzero()[end]) for end in (0, -1))
    return images[first : last + 1] if which[first : last + 1].all() else taken(images, which)


def _require_every_class(listing: Listing) -> None:
    """Checks the class names, and that every class is in the training and the test split."""
    origin = escaped(listing.origin)
    require_class_names(listing.classes, listing.origin)
    if len(listing.classes) < 2:
        raise DataError(f"{origin}: has {len(listing.classes)} class, needs two or more")
    if not listing.splits:
        return
    counts = Counter(zip(listing.splits, listing.labels, strict=True))
    for split in (TRAIN, TEST):
        if lacking := [name for label, name in enumerate(listing.classes) if not counts[split, label]]:
            raise DataError(f"{origin}: has no {split} images of {listed(lacking)}; add some, or remove the class")


def _about_damage(listing: Listing, damaged: dict[int, str]) -> str:
    reasons = [damaged[position] for position in sorted(damaged)]
    if len(reasons) == 1:
        return reasons[0]
    names = [listing.tree.name_of(listing.files[position]) for position in sorted(damaged)]
    return (
        f"{listing.origin}: {len(reasons):,} images cannot be read ({listed(names)}); remove or replace them; "
        f"`dynconv data {listing.origin}` lists them all"
    )


def _say_sizes(reading: Reading, wanted: DataConfig) -> None:
    """Logs one line where images were not of the frame's size: how they are read, and why so."""
    side, frame = reading.frame.size, reading.frame
    sizes = [size for size in reading.sizes if size]
    others = [size for size in sizes if size != (side, side)]
    if not others:
        return
    median = int(statistics.median(map(min, sizes)))
    usual = ", ".join(map(str, AUTO_SIZES))
    why = f", the largest of {usual} that half of them reach" if wanted.size == "auto" else ""
    logger.info(
        "%s: %s of %s images are not %dx%d pixels%s (shorter sides %d to %d, median %d); each is %s to that size; "
        "--data.size and --data.fit change that",
        escaped(reading.listing.origin), f"{len(others):,}", f"{len(sizes):,}", side, side, why,
        min(map(min, sizes)), max(map(min, sizes)), median, HOW[frame.fit],
    )  # fmt: skip
