"""uint8 images -> augmented batches.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.data.augment import AugmentConfig, Batch, Epoch, begin
from dynconv.data.dataset import Split
from dynconv.model.net import to_unit_range


def resize(x_NCHW: Tensor, size: int) -> Tensor:
    """Resizes to size x size, bilinear with anti-aliasing."""
    if x_NCHW.shape[2:] == (size, size):
        return x_NCHW
    return F.interpolate(x_NCHW, (size, size), mode="bilinear", antialias=True, align_corners=False)


def training_batches(
    split: Split, classes: int, augment: AugmentConfig, batch_size: int, image_size: int, epoch: int, seed: int,
    *, first: int = 0, mine: Tensor | None = None, balanced: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Yields an epoch's augmented batches: float32 images [N,3,size,size] in [0,1]; int64 targets [N], or mixed [N,K].

    All randomness is seeded by (seed, epoch), and drawn before the first batch, so an epoch is the same after a resume.
    Images left over after the last full batch are skipped; they differ from epoch to epoch.

    Args:
        first: number of the batch to begin with, from 0.
        mine: positions in a batch of the wanted images, int64; by default all. They are the same as without it.
        balanced: whether to draw the classes equally often, see `balanced_order`, instead of each image once.
    """
    count, device = len(split.labels), split.images.device
    batch_size = min(batch_size, count)
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    apply = begin(augment, Epoch(epoch, seed, count, classes, generator))
    if balanced:
        # An image may come several times, so each draw is augmented on its own.
        order, draws = balanced_order(split.labels.cpu(), generator), torch.arange(count)
    else:
        order = draws = torch.randperm(count, generator=generator)
    early, late = (None, mine) if augment.needs_whole_batch else (mine, None)
    for number in range(first, count // batch_size):
        place = torch.arange(number * batch_size, (number + 1) * batch_size)
        if early is not None:
            place = place[early]
        index = order[place].to(device)
        batch = Batch(split.images[index], split.labels[index], draws[place], number)
        batch = apply("pixels", batch)
        batch = apply("image", replace(batch, images=to_unit_range(batch.images)))
        batch = apply("batch", replace(batch, images=resize(batch.images, image_size)))
        if late is not None:
            batch = replace(batch, images=batch.images[late.to(device)], target=batch.target[late.to(device)])
        yield batch.images, batch.target


def balanced_order(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """As many images as there are, in random order, drawn so that each class comes equally often, to within one.

    Within a class, too, each image comes equally often, to within one: the images of a rare class are repeated, and
    of a common class there are others in each epoch.

    Args:
        labels_N: int64 [N] in main memory. A class without images is not drawn.

    Returns:
        positions, int64 [N].
    """
    classes = labels_N.unique()
    share, extra = divmod(len(labels_N), len(classes))
    lucky = set(torch.randperm(len(classes), generator=generator)[:extra].tolist())
    drawn = []
    for number, label in enumerate(classes.tolist()):
        members = (labels_N == label).nonzero()[:, 0]
        wanted = share + (number in lucky)
        rounds = -(-wanted // len(members))
        drawn.append(
            torch.cat([members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)])[:wanted]
        )
    order_N = torch.cat(drawn)
    return order_N[torch.randperm(len(order_N), generator=generator)]
