"""TrivialAugment and RandAugment: their operations, and how strong each is at a level.

TrivialAugment: Mueller and Hutter 2021, arXiv 2103.10158; the space "wide" of their code. RandAugment: Cubuk et al.
2019, arXiv 1909.13719. Both choose among the same 14 operations and count levels from 0 to 30.

Shape suffixes: N images, C channels, H x W spatial, O operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dynconv.data.colour import (
    autocontrast,
    brightness,
    contrast,
    equalize,
    posterize,
    saturation,
    sharpness,
    solarize,
)
from dynconv.data.geometry import moved, rotated, sheared

STRONGEST = 30
"""The highest level."""


@dataclass(frozen=True)
class Operation:
    """One operation of a policy.

    Attributes:
        name: as in the papers.
        run: takes uint8 images [N, C, H, W] and one value per image, float32 [N]; returns images.
        value: the value at a level of 0..30.
        signed: whether half of the images take the negative value.
    """

    name: str
    run: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[int], float]
    signed: bool = False


def _around_one(enhance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x_NCHW, change_N: enhance(x_NCHW, 1 + change_N)


TRIVIAL_AUGMENT_WIDE = (
    Operation("Identity", lambda x, _: x, lambda _: 0),
    Operation("AutoContrast", lambda x, _: autocontrast(x), lambda _: 0),
    Operation("Equalize", lambda x, _: equalize(x), lambda _: 0),
    Operation("Rotate", rotated, lambda level: level * 135 // 30, signed=True),
    Operation("Solarize", solarize, lambda level: 256 - level * 256 // 30),
    Operation("Color", saturation, lambda level: 0.01 + level * 1.99 / 30),
    Operation("Posterize", posterize, lambda level: 8 - level * 6 // 30),
    Operation("Contrast", contrast, lambda level: 0.01 + level * 1.99 / 30),
    Operation("Brightness", brightness, lambda level: 0.01 + level * 1.99 / 30),
    Operation("Sharpness", sharpness, lambda level: 0.01 + level * 1.99 / 30),
    Operation("ShearX", sheared, lambda level: level * 0.99 / 30, signed=True),
    Operation("ShearY", partial(sheared, vertical=True), lambda level: level * 0.99 / 30, signed=True),
    Operation("TranslateX", moved, lambda level: level * 32 // 30, signed=True),
    Operation("TranslateY", partial(moved, vertical=True), lambda level: level * 32 // 30, signed=True),
)
"""The authors' space `wide_standard`. Shifts are in pixels, whatever the image's size: 32 empty a 32-pixel image."""

RAND_AUGMENT = (
    Operation("Identity", lambda x, _: x, lambda _: 0),
    Operation("AutoContrast", lambda x, _: autocontrast(x), lambda _: 0),
    Operation("Equalize", lambda x, _: equalize(x), lambda _: 0),
    Operation("Rotate", rotated, lambda level: level, signed=True),
    Operation("Solarize", solarize, lambda level: 256 - level * 256 // 30),
    Operation("Color", _around_one(saturation), lambda level: level * 0.9 / 30, signed=True),
    Operation("Posterize", posterize, lambda level: 8 - level * 4 // 30),
    Operation("Contrast", _around_one(contrast), lambda level: level * 0.9 / 30, signed=True),
    Operation("Brightness", _around_one(brightness), lambda level: level * 0.9 / 30, signed=True),
    Operation("Sharpness", _around_one(sharpness), lambda level: level * 0.9 / 30, signed=True),
    Operation("ShearX", sheared, lambda level: level * 0.3 / 30, signed=True),
    Operation("ShearY", partial(sheared, vertical=True), lambda level: level * 0.3 / 30, signed=True),
    Operation(
        "TranslateX",
        lambda x, share: moved(x, (share * x.shape[3]).trunc()),
        lambda level: level * 150 / 331 / 30,
        signed=True,
    ),
    Operation(
        "TranslateY",
        lambda x, share: moved(x, (share * x.shape[2]).trunc(), vertical=True),
        lambda level: level * 150 / 331 / 30,
        signed=True,
    ),
)
"""The ranges of AutoAugment: shifts by up to 150 of 331 pixels. Enhancements go both ways from the image as it is, as
most later code has it: in the first, they went from 0.1 to 1.9 with the level, so the middle level changed nothing."""


def draw_values(space: tuple[Operation, ...], operation_NO: Tensor, level_NO: Tensor, negative_NO: Tensor) -> Tensor:
    """The values of the drawn operations (indices into `space`) at their levels, with their signs: float32 [N, O]."""
    table = torch.tensor([[float(operation.value(level)) for level in range(STRONGEST + 1)] for operation in space])
    signed = torch.tensor([operation.signed for operation in space])
    value_NO = table[operation_NO, level_NO]
    return torch.where(negative_NO & signed[operation_NO], -value_NO, value_NO)


def operated(x_NCHW: Tensor, space: tuple[Operation, ...], operation_NO: Tensor, value_NO: Tensor) -> Tensor:
    """Applies to each uint8 image its own operations of `space`, first to last.

    Args:
        operation_NO: indices into `space`, int64, in main memory, so that choosing images need not wait for a device.
        value_NO: their values, float32, in main memory.
    """
    for operation_N, value_N in zip(operation_NO.unbind(1), value_NO.unbind(1), strict=True):
        result = x_NCHW.clone()
        for number, operation in enumerate(space):
            chosen = (operation_N == number).nonzero()[:, 0]
            if len(chosen) and operation.name != "Identity":
                there = chosen.to(x_NCHW.device)
                result[there] = operation.run(x_NCHW[there], value_N[chosen].to(x_NCHW.device))
        x_NCHW = result
    return x_NCHW
