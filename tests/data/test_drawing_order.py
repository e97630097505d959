"""The order of the random draws is part of what a seed means: whole epochs against a plain reimplementation.

The reimplementation draws everything itself, in the order that runs have always used, and computes image by image.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.data.augment import AugmentConfig
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Split

COUNT, BATCH, CLASSES, SIDE = 46, 20, 5, 16
WITHOUT_FLOATS = [
    AugmentConfig(flip=flip, translate=reach) for flip in ("alternating", "random", "none") for reach in (0, 3)
]
WITH_FLOATS = [
    AugmentConfig(flip="random", translate=2, cutout=6),
    AugmentConfig(flip="none", translate=0, cutout=5, mixup=0.4),
    AugmentConfig(flip="alternating", translate=1, cutmix=1.0),
    AugmentConfig(flip="random", translate=2, cutout=4, mixup=0.8, cutmix=0.5),
]


def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, CLASSES, (COUNT,), generator=generator))


def reference(data: Split, augment: AugmentConfig, size: int, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(seed * 100_003 + epoch)
    flips = torch.zeros(COUNT, dtype=torch.bool)
    if augment.flip == "random":
        flips = torch.rand(COUNT, generator=drawn) < 0.5
    elif augment.flip == "alternating":
        flips = torch.rand(COUNT, generator=torch.Generator().manual_seed(seed)) < 0.5
        flips = ~flips if epoch % 2 else flips
    reach = augment.translate
    shifts = torch.randint(-reach, reach + 1, (COUNT, 2), generator=drawn).tolist() if reach else []
    centres = (torch.rand(COUNT, 2, generator=drawn) * SIDE).long().tolist() if augment.cutout else []
    mixing = augment.mixup or augment.cutmix
    first_seed = int(torch.randint(2**62, (), generator=drawn)) if mixing else 0
    order = torch.randperm(COUNT, generator=drawn).tolist()
    for number, start in enumerate(range(0, COUNT - BATCH + 1, BATCH)):
        chosen = order[start : start + BATCH]
        images = [data.images[i].flip(2) if flips[i] else data.images[i] for i in chosen]
        if reach:
            images = [moved(image, *shifts[i]) for image, i in zip(images, chosen, strict=True)]
        x = torch.stack(images).float() / 255
        if augment.cutout:
            colour = x.mean((0, 2, 3))[:, None, None]
            for image, i in zip(x, chosen, strict=True):
                rows, columns = box(centres[i], augment.cutout, augment.cutout, SIDE)
                image[:, rows, columns] = colour
        if size != SIDE:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        yield mixed(x, data.labels[chosen], augment, torch.Generator().manual_seed(first_seed + number))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    def source(i: int) -> int:  # reflected at the border, which itself is not repeated
        return SIDE - 1 - abs(SIDE - 1 - abs(i))

    rows = [source(row - down) for row in range(SIDE)]
    columns = [source(column - right) for column in range(SIDE)]
    return image[:, rows][:, :, columns]


def box(centre: list[int], height: int, width: int, side: int) -> tuple[slice, slice]:
    top, left = centre[0] - height // 2, centre[1] - width // 2
    return slice(max(top, 0), max(min(top + height, side), 0)), slice(max(left, 0), max(min(left + width, side), 0))


def mixed(x: Tensor, labels: Tensor, augment: AugmentConfig, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(augment, kind)]
    if not kinds:
        return x, labels
    kind = kinds[int(torch.randint(len(kinds), (), generator=drawn))]
    target = F.one_hot(labels, CLASSES).float()
    order = torch.randperm(len(x), generator=drawn)
    alpha = torch.full((2,), getattr(augment, kind), dtype=torch.float64)
    first, second = torch._standard_gamma(alpha, generator=drawn).tolist()
    share = first / (first + second)
    if kind == "mixup":
        return share * x + (1 - share) * x[order], share * target + (1 - share) * target[order]
    side = x.shape[-1]
    centre = [int(torch.randint(side, (), generator=drawn)) for _ in range(2)]
    extent = round((1 - share) ** 0.5 * side)
    rows, columns = box(centre, extent, extent, side)
    pasted = x.clone()
    pasted[:, :, rows, columns] = x[order][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
    return pasted, (1 - area) * target + area * target[order]


@pytest.mark.parametrize("augment", WITHOUT_FLOATS, ids=str)
def test_flips_and_shifts_are_drawn_in_this_order_bit_for_bit(augment: AugmentConfig) -> None:
    for epoch, seed in ((0, 0), (1, 0), (2, 7)):
        found = list(training_batches(split(), CLASSES, augment, BATCH, SIDE, epoch, seed))
        expected = list(reference(split(), augment, SIDE, epoch, seed))

        assert len(found) == len(expected) == 2
        for (x, target), (x_expected, target_expected) in zip(found, expected, strict=True):
            assert torch.equal(x, x_expected) and torch.equal(target, target_expected)


@pytest.mark.parametrize("augment", WITH_FLOATS, ids=str)
@pytest.mark.parametrize("size", [SIDE, 12])
def test_cutout_and_mixing_are_drawn_in_this_order(augment: AugmentConfig, size: int) -> None:
    for epoch, seed in ((0, 0), (1, 0), (2, 7)):
        found = list(training_batches(split(), CLASSES, augment, BATCH, size, epoch, seed))
        (x_second, target_second), *_ = training_batches(split(), CLASSES, augment, BATCH, size, epoch, seed, first=1)
        assert torch.equal(x_second, found[1][0]) and torch.equal(target_second, found[1][1])
        expected = list(reference(split(), augment, size, epoch, seed))

        assert len(found) == len(expected) == 2
        for (x, target), (x_expected, target_expected) in zip(found, expected, strict=True):
            torch.testing.assert_close(x, x_expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(target, target_expected, rtol=0, atol=1e-5)
