"""A data set in memory: uint8 images and their labels, in splits.

Shape suffixes: N images, H x W spatial.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dynconv.data.copies import CannotSplitError, apart, fingerprints
from dynconv.data.frame import Frame
from dynconv.data.room import taken
from dynconv.errors import DynconvError
from dynconv.validation import check_class_names

logger = logging.getLogger(__name__)


class DataError(DynconvError):
    """Data that is missing, damaged or in a form that cannot be read."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 3, H, W] and their labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[1] != 3:
            raise DataError(f"images: need uint8 [N, 3, H, W], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels: need int64 [{len(self.images)}], not {self.labels.dtype} {list(self.labels.shape)}"
            )

    def sample(self, count: int, seed: int = 0) -> Split:
        """`count` random images without replacement, in random order; all images if there are fewer.

        Splits may be sorted by class, so their first images are not a random sample. Does not use the global generator.
        """
        chosen = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))[:count]
        chosen = chosen.to(self.labels.device)
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split of images of one size.

    Attributes:
        name: name of a registered data set, or of the folder or file that it was read from.
        classes: unique, printable names; a label is an index into them.
        origin: the absolute path that it was read from, or a short description if it was not read from disk.
        validation: images for validation, if any: of the data set itself, or held out of its training images.
        frame: how pictures became these images.
        of_files: whether each image was a file of its own, as people collect them: then some may be copies of others.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    origin: str
    validation: Split | None = None
    frame: Frame = field(default_factory=Frame)
    of_files: bool = False

    def __post_init__(self) -> None:
        require_class_names(self.classes, self.origin)
        if len(self.classes) < 2:
            raise DataError(
                f"{self.origin}: all images are of one class, {self.classes[0]!r}; need two classes or more"
            )
        for split_name in ("train", "test", "validation"):
            split: Split | None = getattr(self, split_name)
            if split is None:
                continue
            labels = split.labels
            if len(labels) == 0:
                raise DataError(f"{self.origin}: the {split_name} split is empty")
            if int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
                raise DataError(
                    f"{self.origin}: {split_name} labels run from {int(labels.min())} to {int(labels.max())}, "
                    f"must run from 0 to {len(self.classes) - 1}"
                )


def require_class_names(classes: object, where: str) -> None:
    """Checks class names as `check_class_names` does, but raises DataError."""
    try:
        check_class_names(classes, where)
    except DynconvError as error:
        raise DataError(str(error)) from None


def hold_out(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Moves `count` random training images into `validation`: the same number of each class, to within one.

    Of images that were files, copies stay on one side, see `copies.apart`; a message says if that changes the number.

    Raises:
        DataError: a class has too few training images, or they are all copies of one another, or the data set has
            images for validation of its own.
    """
    if dataset.validation:
        own = len(dataset.validation.labels)
        raise DataError(f"{dataset.origin}: has {own:,} images for validation of its own; leave out holdout")
    labels, generator = dataset.train.labels, torch.Generator().manual_seed(seed)
    share, extra = divmod(count, len(dataset.classes))
    wanted = torch.full((len(dataset.classes),), share)
    wanted[torch.randperm(len(dataset.classes), generator=generator)[:extra]] += 1
    ranks = torch.empty_like(labels)
    for label, name in enumerate(dataset.classes):
        members = (labels == label).nonzero()[:, 0]
        if wanted[label] >= len(members):
            raise DataError(
                f"holdout: {count} takes {wanted[label]} images of class {name!r}, which has {len(members)}; use fewer"
            )
        ranks[members[torch.randperm(len(members), generator=generator)]] = torch.arange(len(members))
    chosen = _without_their_copies(dataset, wanted, ranks) if dataset.of_files else ranks < wanted[labels]
    train, validation = (Split(taken(dataset.train.images, which), labels[which]) for which in (~chosen, chosen))
    return replace(dataset, train=train, validation=validation)


def _without_their_copies(dataset: Dataset, wanted: Tensor, ranks: Tensor) -> Tensor:
    """Which training images to hold out, bool [N], so that the others are no copies of them."""
    train = dataset.train
    try:
        chosen_N = apart(fingerprints(train.images.numpy()), train.labels.tolist(), wanted.numpy(), ranks.tolist())
    except CannotSplitError as error:
        name = dataset.classes[error.label]
        raise DataError(f"holdout: class {name!r}: {error}; add others, or leave out holdout") from None
    if chosen_N.sum() != wanted.sum():
        logger.info("holdout: %d images, not %d, because copies stay on one side", chosen_N.sum(), wanted.sum())
    return torch.from_numpy(chosen_N)
