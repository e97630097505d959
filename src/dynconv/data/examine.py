"""What a data set holds, and what may be wrong with it: damaged files, copies, pictures with two labels, few images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dynconv.data import find
from dynconv.data.copies import Fingerprint, fingerprints, groups_of_copies
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.frame import DataConfig, Frame
from dynconv.data.listing import SPLITS, Reading, read_images
from dynconv.data.registry import NAMED

FEW = 20
"""Training images of a class, below which a network learns little about it."""
UNEVEN = 5
"""How many times the images of the smallest class the largest one may have before it is said."""


@dataclass(frozen=True)
class Contents:
    """All images of a data set.

    Attributes:
        images: uint8 [N, 3, size, size]; damaged ones are black.
        labels: int64 [N].
        splits: train, validation or test for each.
        names: what each is called: its path, or its place in its split.
        sizes: width and height in the files; empty for data without files of their own.
        damaged: position and reason of those that could not be read.
        own_splits: whether the data set says which image belongs to which split.
        copies: positions of images that are copies of one another.
        problems: why it cannot be trained on; if it cannot be split, all images count as training images.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    frame: Frame
    images: Tensor
    labels: Tensor
    splits: list[str]
    names: list[str]
    sizes: list[tuple[int, int]]
    damaged: dict[int, str]
    own_splits: bool
    copies: list[list[int]]
    problems: list[str]

    def count(self, label: int, split: str) -> int:
        """Images of a class in a split."""
        of_class = (self.labels == label).tolist()
        return sum(mine and where == split for mine, where in zip(of_class, self.splits, strict=True))

    @property
    def used_splits(self) -> list[str]:
        """Those that have images."""
        return [split for split in SPLITS if split in self.splits]

    @property
    def across_splits(self) -> list[list[int]]:
        """Copies of which some are in another split than others: what a network has learned is tested."""
        return [group for group in self.copies if len({self.splits[each] for each in group}) > 1]

    @property
    def across_classes(self) -> list[list[int]]:
        """Copies that have different labels, one of which must be wrong."""
        return [group for group in self.copies if len({int(self.labels[each]) for each in group}) > 1]


def contents(source: str, wanted: DataConfig, seed: int = 0) -> Contents:
    """Everything that the data set `source` holds, damaged images included.

    Raises:
        DataError: there is none, or more is wrong with it than with single images.
    """
    path = find.expand(source)
    is_path = source not in (find.AUTO, *NAMED) and os.path.exists(path)  # noqa: PTH110 - raises where unsearchable
    listing = find.image_files(path.absolute()) if is_path else None
    if listing:
        return _of_files(read_images(listing, wanted, prints=True))
    return _of_dataset(find.load(source, seed=seed, wanted=wanted))


def _of_files(reading: Reading) -> Contents:
    listing = reading.listing
    whole = [position for position in range(len(listing.files)) if position not in reading.damaged]
    splits, problems = list(listing.splits), list(listing.problems)
    if not splits:
        try:
            splits = reading.splits()
        except DataError as error:
            problems.append(str(error))
    files = [listing.tree.name_of(file) for file in listing.files]
    return Contents(
        listing.name, listing.origin, listing.classes, reading.frame, reading.images,
        torch.tensor(listing.labels, dtype=torch.int64), splits or ["train"] * len(files), files,
        [size for size in reading.sizes if size], reading.damaged, bool(listing.splits),
        _copies(reading.known_prints(whole), whole), problems,
    )  # fmt: skip


def _of_dataset(dataset: Dataset) -> Contents:
    found = {name: getattr(dataset, name) for name in SPLITS if getattr(dataset, name)}
    images = torch.cat([split.images for split in found.values()])
    splits = [name for name, split in found.items() for _ in split.labels]
    names = [f"{name} image {number}" for name, split in found.items() for number in range(len(split.labels))]
    return Contents(
        dataset.name, dataset.origin, dataset.classes, dataset.frame, images,
        torch.cat([split.labels for split in found.values()]), splits, names, [], {}, True,
        _copies(fingerprints(images.numpy()), range(len(images))), [],
    )  # fmt: skip


def _copies(prints: Sequence[Fingerprint], positions: Sequence[int]) -> list[list[int]]:
    groups = groups_of_copies(prints) if prints else []
    return [[positions[each] for each in group] for group in groups if len(group) > 1]


def advice(found: Contents) -> list[str]:
    """What to look at, one line each."""
    said = list(found.problems)
    counts = Counter(found.labels[[split == "train" for split in found.splits]].tolist())
    few = [name for label, name in enumerate(found.classes) if counts[label] < FEW]
    if few:
        said.append(
            f"few images: {', '.join(few[:5])}{', ...' if len(few) > 5 else ''} with fewer than {FEW} to train on"
        )
    most, least = (
        max(counts.values(), default=0),
        min((counts[label] for label in range(len(found.classes))), default=0),
    )
    if least and most >= UNEVEN * least:
        said.append(f"uneven: the largest class has {most // least} times the images of the smallest")
    if found.across_splits:
        said.append("copies across splits: remove those in the training images, or what is learned is tested")
    if found.across_classes:
        said.append("pictures with two labels: remove the wrong one")
    if found.damaged:
        said.append("damaged images: training refuses them; remove or replace them")
    return said


@dataclass(frozen=True)
class Doubt:
    """An image whose label may be wrong."""

    position: int
    given: str
    likely: str
    given_probability: float
    likely_probability: float


def doubts(found: Contents, probabilities_NC: Tensor) -> list[Doubt]:
    """Images that a trained network is sure to be of another class, the surest first.

    Another class counts if its probability is at least the mean that images of that class get for it (confident
    learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068). Of images that the network was trained on, it
    may have learned wrong labels by heart; those of the test split tell more.

    Raises:
        DataError: the network has other classes.
    """
    if probabilities_NC.shape[1] != len(found.classes):
        raise DataError(f"{found.origin}: has {len(found.classes)} classes, the network {probabilities_NC.shape[1]}")
    own = probabilities_NC.gather(1, found.labels[:, None])[:, 0]
    whole = torch.ones(len(own), dtype=torch.bool)
    whole[list(found.damaged)] = False
    means = torch.stack([own[whole & (found.labels == label)].mean() for label in range(len(found.classes))])
    sure = torch.where(probabilities_NC >= means, probabilities_NC, -1.0)
    sure.scatter_(1, found.labels[:, None], -1.0)
    best, label = sure.max(1)
    margins = best - own
    chosen = [position for position in (margins > 0).nonzero()[:, 0].tolist() if position not in found.damaged]
    return [
        Doubt(
            position, found.classes[int(found.labels[position])], found.classes[int(label[position])],
            float(own[position]), float(best[position]),
        )
        for position in sorted(chosen, key=lambda each: -float(margins[each]))
    ]  # fmt: skip


def shown_path(name: str, origin: str) -> str:
    """A file's name as it is shown: relative to the data set's folder."""
    root = Path(origin)
    return str(Path(name).relative_to(root)) if name.startswith(f"{root}{os.sep}") else name
