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

from dynconv.data.augment import AugmentConfig, require_shift_within
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Split
from dynconv.data.examine import Contents
from dynconv.data.listing import TRAIN

SMALLEST, LARGEST = 64, 128
"""Side of a shown image in pixels: smaller ones are enlarged by a whole number, larger ones are made smaller."""
CLASSES = 20
"""The most rows."""
COLUMNS = 10
"""Images in a row."""
_GAP, _MARGIN, _TEXT, _LONGEST = 4, 12, 15, 180  # pixels; _TEXT: height of the font, _LONGEST: width of a name
_INK, _FAINT, _PAPER, _NONE = "#222222", "#707070", "#ffffff", "no images"


def sample(found: Contents) -> tuple[Tensor, Tensor]:
    """As many images of each class as a row holds, drawn at random, and their labels; each time the same."""
    order = torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(0))
    first = torch.cat([order[found.labels[order] == label][:COLUMNS] for label in range(len(found.classes))])
    return found.images[first], found.labels[first]


def as_training_sees(found: Contents, augment: AugmentConfig) -> tuple[Tensor, Tensor]:
    """The first training image of each class in one epoch after another, and what training takes it for.

    Raises:
        DataError: the augmentation shifts images further than they are wide.
    """
    is_train = torch.tensor([split == TRAIN for split in found.splits])
    images, labels = found.images[is_train], found.labels[is_train]
    first = [int((labels == label).nonzero()[0, 0]) for label in range(len(found.classes)) if (labels == label).any()]
    require_shift_within(augment, found.frame.size)
    split, classes = Split(images[first], labels[first]), len(found.classes)
    seen, targets = [], []
    for epoch in range(COLUMNS):
        for x_NCHW, target in training_batches(split, classes, augment, len(first), found.frame.size, epoch, 0):
            seen.append((x_NCHW.clamp(0, 1) * 255).round().byte().contiguous())
            targets.append(target.argmax(1) if target.is_floating_point() else target)
    return torch.cat(seen), torch.cat(targets)


def contact_sheet(images: Tensor, labels: Tensor, classes: Sequence[str], columns: int = COLUMNS) -> Image.Image:
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
