"""Augmentations: pure functions of a batch and of random draws, each registered by one factory.

A factory is called once per epoch, in the order of the definitions below, and returns the function to apply to each
batch, or None if the configuration switches it off. It draws for all images of the epoch at once: so what happens to an
image depends neither on its batch nor on the batches before, and an epoch can begin in its middle. What a seed means
depends on the order of the factories, so a new augmentation goes to the end of its stage and draws nothing while it is
off.

To add one, write a field of `AugmentConfig` whose default is off, a factory here, and a test. What they do to pixels
is in `geometry`, `colour` and `policies`; docs/augmentations.md lists them all.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from dynconv.data import colour
from dynconv.data.dataset import DataError
from dynconv.data.frame import LARGEST_SIZE
from dynconv.data.geometry import box_in, boxes, cropped, draw_boxes, inside, mirror, shifted
from dynconv.data.policies import RAND_AUGMENT, STRONGEST, TRIVIAL_AUGMENT_WIDE, draw_values, operated
from dynconv.validation import Fraction, Frozen

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]


class AugmentConfig(Frozen):
    """Random changes to training images."""

    flip: Literal["alternating", "random", "none"] = "alternating"
    """Horizontal flip. alternating: flips images at random in the first epoch, then alternates from epoch to epoch."""
    translate: int = Field(2, ge=0, le=LARGEST_SIZE - 1)
    """Maximum shift in pixels, with reflection padding; less than the side of the images."""
    cutout: int = Field(0, ge=0, le=LARGEST_SIZE)
    """Side of the square that is blanked out, in pixels; 0 for none."""
    mixup: float = Field(0.0, ge=0)
    """Parameter alpha of mixup's Beta distribution; 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Parameter alpha of cutmix's Beta distribution; 0 for none."""
    crop_scale: tuple[Share, Share] = (1.0, 1.0)
    """Random resized crop: least and greatest share of the image's area, such as 0.3 1; 1 1 for none."""
    crop_ratio: tuple[Ratio, Ratio] = (0.75, 1.3333)
    """Least and greatest width over height of the crop."""
    brightness: Fraction = 0.0
    """Colour jitter: greatest relative change of the brightness; 0 for none."""
    contrast: Fraction = 0.0
    """Colour jitter: greatest relative change of the contrast; 0 for none."""
    saturation: Fraction = 0.0
    """Colour jitter: greatest relative change of the saturation; 0 for none."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Colour jitter: greatest turn of the hue, as a share of the colour circle; 0 for none."""
    policy: Literal["none", "trivialaugment", "randaugment"] = "none"
    """trivialaugment: one random operation at a random level (TrivialAugment Wide). randaugment: several random
    operations at one level."""
    randaugment_operations: int = Field(2, ge=1, le=14)
    """Operations per image, with randaugment."""
    randaugment_magnitude: int = Field(9, ge=0, le=STRONGEST)
    """Level of the operations, with randaugment."""
    erase: Fraction = 0.0
    """Random erasing: probability that a box of the image becomes noise; 0 for none."""
    erase_scale: tuple[Share, Share] = (0.02, 0.4)
    """Least and greatest share of the image's area that is erased."""
    erase_ratio: tuple[Ratio, Ratio] = (0.3, 3.3333)
    """Least and greatest width over height of the erased box."""

    @field_validator("crop_scale", "crop_ratio", "erase_scale", "erase_ratio")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"must be the lesser number first, then the greater, not {value[0]:g} {value[1]:g}")
        return value

    @property
    def needs_whole_batch(self) -> bool:
        """Whether what happens to an image depends on the others of its batch."""
        return bool(self.cutout or self.mixup or self.cutmix)


def require_shift_within(config: AugmentConfig, side: int) -> None:
    """Raises DataError where shifts move images of side x side pixels further than reflection can fill."""
    if config.translate >= side:
        raise DataError(f"augment.translate: must be below the side of the images, {side}, not {config.translate}")


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

NOISE = 2**18
"""Random numbers that all erased boxes of an epoch share; each image's noise begins at its own place among them."""

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


@augmentation("pixels")
def crop(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Enlarges a random box of each image to the image's size. Szegedy et al. 2014, arXiv 1409.4842."""
    if config.crop_scale == (1, 1):
        return None
    drawn = draw_boxes(epoch.images, config.crop_scale, config.crop_ratio, epoch.generator)

    def augment(batch: Batch) -> Batch:
        box = box_in(drawn[batch.index], *batch.images.shape[2:])
        return replace(batch, images=cropped(batch.images, box.to(batch.images.device)))

    return augment


@augmentation("pixels")
def colour_jitter(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Changes brightness, contrast, saturation, then hue of each image. Howard 2013, arXiv 1312.5402."""
    strengths = torch.tensor([config.brightness, config.contrast, config.saturation, config.hue])
    if not strengths.any():
        return None
    changes = strengths * (2 * torch.rand(epoch.images, 4, generator=epoch.generator) - 1)

    def augment(batch: Batch) -> Batch:
        images, change_4N = batch.images, changes[batch.index].T.to(batch.images.device)
        enhancements = (colour.brightness, colour.contrast, colour.saturation)
        for enhance, change_N, strength in zip(enhancements, change_4N[:3], strengths[:3].tolist(), strict=True):
            if strength:
                images = enhance(images, 1 + change_N)
        return replace(batch, images=colour.hue(images, change_4N[3]) if config.hue else images)

    return augment


@augmentation("pixels")
def policy(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """TrivialAugment Wide (Mueller and Hutter 2021, arXiv 2103.10158) or RandAugment (Cubuk 2019, arXiv 1909.13719)."""
    if config.policy == "none":
        return None
    trivial = config.policy == "trivialaugment"
    space = TRIVIAL_AUGMENT_WIDE if trivial else RAND_AUGMENT
    shape = (epoch.images, 1 if trivial else config.randaugment_operations)
    operations = torch.randint(len(space), shape, generator=epoch.generator)
    negative = torch.rand(shape, generator=epoch.generator) < 0.5
    if trivial:
        levels = torch.randint(STRONGEST + 1, shape, generator=epoch.generator)
    else:
        levels = torch.full(shape, config.randaugment_magnitude)
    values = draw_values(space, operations, levels, negative)
    return lambda batch: replace(
        batch, images=operated(batch.images, space, operations[batch.index], values[batch.index])
    )


@augmentation("image")
def cutout(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Blanks a square of each image with the batch's mean colour. DeVries and Taylor 2017, arXiv 1708.04552."""
    if not config.cutout:
        return None
    centres = torch.rand(epoch.images, 2, generator=epoch.generator)

    def augment(batch: Batch) -> Batch:
        centre = (centres[batch.index] * torch.tensor(batch.images.shape[2:])).long()
        return replace(batch, images=blanked(batch.images, centre.to(batch.images.device), config.cutout))

    return augment


@augmentation("image")
def erase(config: AugmentConfig, epoch: Epoch) -> Augmentation | None:
    """Fills a random box of some images with noise, uniform in [0, 1]. Zhong et al. 2017, arXiv 1708.04896."""
    if not config.erase:
        return None
    erased = torch.rand(epoch.images, generator=epoch.generator) < config.erase
    drawn = draw_boxes(epoch.images, config.erase_scale, config.erase_ratio, epoch.generator)
    noise = torch.rand(NOISE, generator=epoch.generator)
    starts = torch.randint(NOISE, (epoch.images,), generator=epoch.generator)

    def augment(batch: Batch) -> Batch:
        chosen = erased[batch.index].nonzero()[:, 0]
        which, there, device = batch.index[chosen], chosen.to(batch.images.device), batch.images.device
        before, images = batch.images[there], batch.images.clone()
        values = before.shape[1:].numel()
        around = noise.repeat(1 + -(-values // NOISE))  # the end is followed by the beginning
        noise_NCHW = around.unfold(0, values, 1)[starts[which]].view_as(before).to(device)
        box = inside(box_in(drawn[which], *before.shape[2:]).to(device), *before.shape[2:])
        images[there] = torch.where(box, noise_NCHW, before)
        return replace(batch, images=images)

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
