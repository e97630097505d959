"""Augmentations: pure functions of a batch and of random draws, each registered by one factory.

A factory is called once per epoch, in the order of the definitions below, and returns the function to apply to each
batch, or None if the configuration switches it off. It draws for all images of the epoch at once: so what happens to an
image depends neither on its batch nor on the batches before, and an epoch can begin in its middle. What a seed means
depends on the order of the factories, so a new augmentation goes to the end of its stage and draws nothing while it is
off.

To add one, write a field of `AugmentConfig` whose default is off, a factory here, and a test.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dynconv.validation import Frozen


class AugmentConfig(Frozen):
    """Random changes to training images."""

    flip: Literal["alternating", "random", "none"] = "alternating"
    """Horizontal flip. alternating: flips images at random in the first epoch, then alternates from epoch to epoch."""
    translate: int = Field(2, ge=0, le=16)
    """Maximum shift in pixels, with reflection padding."""
    cutout: int = Field(0, ge=0, le=32)
    """Side of the square that is blanked out, in pixels; 0 for none."""
    mixup: float = Field(0.0, ge=0)
    """Parameter alpha of mixup's Beta distribution; 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Parameter alpha of cutmix's Beta distribution; 0 for none."""

    @property
    def needs_whole_batch(self) -> bool:
        """Whether what happens to an image depends on the others of its batch."""
        return bool(self.cutout or self.mixup or self.cutmix)


@dataclass(frozen=True)
class Batch:
    """Images and their targets.

    Attributes:
        images: uint8 [N,C,H,W] at the stage "pixels", then float32 in [0, 1].
        target: int64 [N], or float32 [N,K] after mixing.
        index: which of the epoch's draws are those of these images, int64 [N], in main memory: the position of an image
            in the split, or, where an image may come several times, its position in the epoch.
        number: number of the batch in its epoch, from 0.
    """

    images: Tensor
    target: Tensor
    index: Tensor
    number: int


@dataclass(frozen=True)
class Epoch:
    """What a factory knows about the epoch.

    Attributes:
        number: number of the epoch, from 0.
        seed: the run's seed.
        images: number of images in the split.
        classes: K.
        generator: the epoch's own generator, to be used by factories alone; the source of all randomness except what
            must agree between epochs.
    """

    number: int
    seed: int
    images: int
    classes: int
    generator: torch.Generator


Stage = Literal["pixels", "image", "batch"]
"""When an augmentation runs: on uint8 at full size, on floats before resizing, or on resized images and targets."""

Augmentation = Callable[[Batch], Batch]
Factory = Callable[[AugmentConfig, Epoch], Augmentation | None]

FACTORIES: list[tuple[Stage, Factory]] = []
"""The registered augmentations, in the order of their calls and application."""


def augmentation(stage: Stage) -> Callable[[Factory], Factory]:
    """Registers the decorated factory for `stage`."""

    def register(factory: Factory) -> Factory:
        FACTORIES.append((stage, factory))
        return factory

    return register


def begin(config: AugmentConfig, epoch: Epoch) -> Callable[[Stage, Batch], Batch]:
    """Calls all factories for an epoch; returns a function that applies the augmentations of one stage to a batch."""
    augmentations = [(stage, factory(config, epoch)) for stage, factory in FACTORIES]

    def apply(stage: Stage, batch: Batch) -> Batch:
        for own_stage, augment in augmentations:
            if augment and own_stage == stage:
                batch = augment(batch)
        return batch

    return apply


@augmentation("pixels")
def flip(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Mirrors half of the images, left to right. `alternating`: Jordan 2024, arXiv 2404.00498."""
    if config.flip == "none":
        return None
    if config.flip == "random":
        flips = torch.rand(epoch.images, generator=epoch.generator) < 0.5
    else:
        first = torch.rand(epoch.images, generator=torch.Generator().manual_seed(epoch.seed)) < 0.5
        flips = first ^ bool(epoch.number % 2)
    return lambda batch: replace(batch, images=mirror(batch.images, flips[batch.index].to(batch.images.device)))


@augmentation("pixels")
def translate(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Shifts each image by up to `translate` pixels in both directions."""
    reach = config.translate
    if not reach:
        return None
    shifts = torch.randint(-reach, reach + 1, (epoch.images, 2), generator=epoch.generator)
    return lambda batch: replace(
        batch, images=shifted(batch.images, shifts[batch.index].to(batch.images.device), reach)
    )


@augmentation("image")
def cutout(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Blanks a square of each image with the batch's mean colour. DeVries and Taylor 2017, arXiv 1708.04552."""
    if not config.cutout:
        return None
    centres = torch.rand(epoch.images, 2, generator=epoch.generator)

    def augment(batch: Batch) -> Batch:
        centre = (centres[batch.index] * batch.images.shape[2]).long()
        return replace(batch, images=blanked(batch.images, centre.to(batch.images.device), config.cutout))

    return augment


@augmentation("batch")
def mix(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Mixes each image with another image of the batch, by mixup or cutmix; if both are on, by either at random."""
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(config, kind)]
    if not kinds:
        return None
    first_seed = int(torch.randint(2**62, (), generator=epoch.generator))

    def augment(batch: Batch) -> Batch:
        x_NCHW, drawn = batch.images, torch.Generator().manual_seed(first_seed + batch.number)
        kind = kinds[int(torch.randint(len(kinds), (), generator=drawn))]
        target_NK = F.one_hot(batch.target, epoch.classes).float()
        order_N = torch.randperm(len(x_NCHW), generator=drawn).to(x_NCHW.device)
        share = beta(getattr(config, kind), drawn)
        if kind == "mixup":
            images, target = mixup(x_NCHW, target_NK, order_N, share)
        else:
            centre_2 = torch.tensor([int(torch.randint(side, (), generator=drawn)) for side in x_NCHW.shape[2:]])
            images, target = cutmix(x_NCHW, target_NK, order_N, share, centre_2.to(x_NCHW.device))
        return replace(batch, images=images, target=target)

    return augment


def mirror(x_NCHW: Tensor, which_N: Tensor) -> Tensor:
    """Mirrors, left to right, the images for which which_N is true."""
    return torch.where(which_N[:, None, None, None], x_NCHW.flip(3), x_NCHW)


def shifted(x_NCHW: Tensor, shift_N2: Tensor, reach: int) -> Tensor:
    """Shifts each image by its own (down, right) pixels, within +-reach; reflects at the border."""
    n, _, h, w = x_NCHW.shape
    padded_NHWC = F.pad(x_NCHW.float(), (reach,) * 4, mode="reflect").to(x_NCHW.dtype).permute(0, 2, 3, 1)
    rows_NH = torch.arange(h, device=x_NCHW.device) + reach - shift_N2[:, :1]
    cols_NW = torch.arange(w, device=x_NCHW.device) + reach - shift_N2[:, 1:]
    image_N = torch.arange(n, device=x_NCHW.device)
    return padded_NHWC[image_N[:, None, None], rows_NH[:, :, None], cols_NW[:, None, :]].permute(0, 3, 1, 2)


def boxes(centre_N2: Tensor, height: int, width: int, box_height: int, box_width: int) -> Tensor:
    """Boolean [N,1,H,W], true inside the box around each centre (row, column), clipped at the border."""
    rows_NH = torch.arange(height, device=centre_N2.device) - centre_N2[:, :1] + box_height // 2
    cols_NW = torch.arange(width, device=centre_N2.device) - centre_N2[:, 1:] + box_width // 2
    inside_NH, inside_NW = (rows_NH >= 0) & (rows_NH < box_height), (cols_NW >= 0) & (cols_NW < box_width)
    return (inside_NH[:, :, None] & inside_NW[:, None, :])[:, None]


def blanked(x_NCHW: Tensor, centre_N2: Tensor, size: int) -> Tensor:
    """Fills a square of `size` pixels around each centre with the batch's mean colour."""
    height, width = x_NCHW.shape[2:]
    box = boxes(centre_N2, height, width, size, size)
    return torch.where(box, x_NCHW.mean((0, 2, 3), keepdim=True), x_NCHW)


def mixup(x_NCHW: Tensor, target_NK: Tensor, order_N: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """share * image + (1 - share) * another image; the same for the targets. Zhang et al. 2018, arXiv 1710.09412."""
    return x_NCHW.lerp(x_NCHW[order_N], 1 - share), target_NK.lerp(target_NK[order_N], 1 - share)


def cutmix(x_NCHW: Tensor, target_NK: Tensor, order_N: Tensor, share: float, centre_2: Tensor) -> tuple[Tensor, Tensor]:
    """Pastes a box of 1 - share of the area from another image, around centre_2 (row, column).

    The targets are weighted by the area that is inside the image. Yun et al. 2019, arXiv 1905.04899.
    """
    height, width = x_NCHW.shape[2:]
    side = (1 - share) ** 0.5
    box = boxes(centre_2[None], height, width, round(side * height), round(side * width))
    pasted = float(box.float().mean())
    return torch.where(box, x_NCHW[order_N], x_NCHW), target_NK.lerp(target_NK[order_N], pasted)


def beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as a ratio of gamma variates; torch.distributions takes no generator."""
    gammas = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return float(gammas[0] / gammas.sum()) if gammas.sum() > 0 else 0.5
