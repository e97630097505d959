"""The square that every picture becomes: its side, and what happens to a picture of another shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from PIL import Image, ImageOps
from pydantic import field_validator

from dynconv.validation import Frozen

SIZE = 32
"""Side of CIFAR-10's images, for which the presets are made; `auto` chooses no smaller one."""
SMALLEST_SIZE, LARGEST_SIZE = 8, 512
"""Smallest and largest side to train at."""
AUTO_SIZES = (32, 48, 64, 96, 128)
"""Sides that `auto` chooses from. Beyond, a CPU takes long, and most photographs gain little."""
_GREY = (128, 128, 128)

Fit = Literal["crop", "pad", "stretch"]
"""How a picture that is not square becomes one. crop: its shorter side fits, and its middle is kept; pad: its longer
side fits, and grey bars fill the rest; stretch: both sides fit, and it changes its shape."""


@dataclass(frozen=True)
class Frame:
    """What every picture becomes, in training and wherever the network is used.

    Attributes:
        size: side of the square in pixels, 1 to 512.
        fit: how a picture that is not square becomes one.
    """

    size: int = SIZE
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 1 <= self.size <= LARGEST_SIZE:
            raise ValueError(f"size: must be a whole number from 1 to {LARGEST_SIZE}, not {self.size!r}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit: must be one of {', '.join(get_args(Fit))}, not {self.fit!r}")

    def of(self, image: Image.Image) -> Image.Image:
        """The picture in this frame: bilinear, anti-aliased."""
        square = (self.size, self.size)
        if image.size == square:
            return image
        if self.fit == "stretch":
            return image.resize(square, Image.Resampling.BILINEAR)
        if self.fit == "pad":
            grey = cast("int", _GREY)  # Pillow's annotation has no colours of three numbers
            shorter, longer = sorted(image.size)
            if round(shorter / longer * self.size) == 0:  # nothing is left of it, which Pillow up to 12.0 refuses
                return Image.new(image.mode, square, grey)
            return ImageOps.pad(image, square, Image.Resampling.BILINEAR, color=grey)
        return ImageOps.fit(image, square, Image.Resampling.BILINEAR)


class DataConfig(Frozen):
    """How images of any size and shape are read."""

    size: int | Literal["auto"] = "auto"
    """Side of the images in pixels, or auto: the largest of 32, 48, 64, 96, 128 that half of the training images reach
    with their shorter side. With another than 32, whatever the preset says of sizes grows with it."""
    fit: Fit = "crop"
    """How an image that is not square becomes one. crop: cut at both ends; pad: grey bars; stretch: out of shape."""

    @field_validator("size", mode="before")
    @classmethod
    def _auto_or_a_number(cls, size: object) -> object:
        number = int(size) if isinstance(size, str) and size.isdecimal() and len(size) < 10 else size
        if number != "auto" and (type(number) is not int or not SMALLEST_SIZE <= number <= LARGEST_SIZE):
            raise ValueError(f"must be auto, or a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}, not {size}")
        return number

    def frame(self, shorter_sides: Iterable[int]) -> Frame:
        """The frame, for images with these shorter sides."""
        return Frame(auto_size(shorter_sides) if self.size == "auto" else self.size, self.fit)


def auto_size(shorter_sides: Iterable[int]) -> int:
    """The largest of the usual sizes that half of these sides reach."""
    sides = sorted(shorter_sides)
    median = sides[len(sides) // 2] if sides else SIZE
    return max(size for size in AUTO_SIZES if size <= max(median, SIZE))
