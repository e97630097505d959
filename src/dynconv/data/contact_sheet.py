"""A contact sheet: labelled images as one picture, a row for each class.

Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST, LARGEST = 64, 128
"""Side of a shown image in pixels: smaller ones are enlarged by a whole number, larger ones are made smaller."""
CLASSES = 20
"""The most rows."""
_GAP, _MARGIN, _TEXT, _LONGEST = 4, 12, 15, 180  # pixels; _TEXT: height of the font, _LONGEST: width of a name
_INK, _FAINT, _PAPER, _NONE = "#222222", "#707070", "#ffffff", "no images"


def contact_sheet(images: Tensor, labels: Tensor, classes: Sequence[str], columns: int = 10) -> Image.Image:
    """Draws the first `columns` images of each class beside the class's name.

    Of more than 20 classes, it shows the first 20 and says how many more there are. Characters that the font lacks
    become question marks; such a name also has its number.

    Args:
        images: uint8 [N, C, H, W], C = 3 (RGB) or 1 (grey).
        labels: int64 [N], indices into `classes`.

    Returns:
        A picture in RGB.
    """
    font, labels = _Font(), labels.cpu()
    chosen = [(labels == number).nonzero()[:columns, 0] for number in range(min(len(classes), CLASSES))]
    tiles = _tiles(images[torch.cat(chosen).to(images.device)])
    high, wide = tiles.shape[2:]
    rows = tiles.split([len(each) for each in chosen])
    names = [font.name(name, number) for number, name in enumerate(classes[:CLASSES])]
    heights = [(high if len(row) else 2 * _TEXT) + _GAP for row in rows]
    more = f"and {len(classes) - CLASSES:,} more classes" if len(classes) > CLASSES else ""

    left = _MARGIN + max([font.width(name) for name in names if name], default=0) + _MARGIN
    right = left + max([len(row) * (wide + _GAP) for row in rows if len(row)], default=font.width(_NONE))
    bottom = _MARGIN + sum(heights) + (2 * _TEXT if more else 0)
    sheet = Image.new("RGB", (max(right, font.width(more) + _MARGIN) + _MARGIN, bottom + _MARGIN), _PAPER)
    draw, top = ImageDraw.Draw(sheet), _MARGIN
    for name, row, height in zip(names, rows, heights, strict=True):
        middle = top + (height - _GAP) // 2
        draw.text((_MARGIN, middle), name, _INK, font.font, anchor="lm")
        if not len(row):
            draw.text((left, middle), _NONE, _FAINT, font.font, anchor="lm")
        for place, image in enumerate(row):
            sheet.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), (left + place * (wide + _GAP), top))
        top += height
    if more:
        draw.text((_MARGIN, bottom), more, _FAINT, font.font, anchor="ls")
    return sheet


def _tiles(images: Tensor) -> Tensor:
    """The images in RGB, in main memory, at the size at which they are shown."""
    x_NCHW = images.cpu().expand(-1, 3, -1, -1)
    longer = max(x_NCHW.shape[2:])
    if not len(x_NCHW):
        return x_NCHW
    if longer < SMALLEST:
        times = -(-SMALLEST // longer)
        return x_NCHW.repeat_interleave(times, 2).repeat_interleave(times, 3)
    if longer > LARGEST:
        size = [max(1, round(side * LARGEST / longer)) for side in x_NCHW.shape[2:]]
        small = torch.nn.functional.interpolate(x_NCHW.float(), size, mode="bilinear", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8)
    return x_NCHW


class _Font:
    """DejaVu Sans, which comes with matplotlib, and knowledge of the characters that it has."""

    def __init__(self) -> None:
        import matplotlib
        from matplotlib.ft2font import FT2Font

        path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
        self.font = ImageFont.truetype(str(path), _TEXT)
        self._characters = FT2Font(str(path)).get_charmap()

    def width(self, text: str) -> int:
        """In pixels."""
        return math.ceil(self.font.getlength(text))

    def name(self, name: str, number: int) -> str:
        """The name as far as the font has it and there is room."""
        text = "".join(letter if ord(letter) in self._characters else "?" for letter in name)
        if text != name:
            text = f"{number}: {text}"
        if self.width(text) <= _LONGEST:
            return text
        while self.width(text + "…") > _LONGEST:
            text = text[:-1]
        return text.rstrip() + "…"
