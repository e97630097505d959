"""Sample images: figures of the generated set, and drawings of some of CIFAR-10's classes, drawn by this code.

A drawing is 100 x 100 units, with y pointing down. The file is long because it holds the drawings.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageDraw

from dynconv.data import shapes

_SIZE, _SMOOTH = 256, 3
Points = list[tuple[float, float]]


def draw(classes: tuple[str, ...]) -> dict[str, bytes]:
    """PNG files by class, for those of `classes` that have a drawing."""
    if classes == shapes.CLASSES:
        test = shapes.generate(0, train_images=len(classes), test_images=len(classes)).test
        pictures = {
            classes[label]: Image.fromarray(image.permute(1, 2, 0).numpy())
            for label, image in sorted(zip(test.labels.tolist(), test.images, strict=True), key=lambda pair: pair[0])
        }
    else:
        pictures = {name: _Canvas().drawn(_DRAWINGS[name]) for name in classes if name in _DRAWINGS}
    return {name: _png(picture) for name, picture in pictures.items()}


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class _Canvas:
    """A picture with coordinates in units. It is drawn larger and scaled down, which smooths the edges."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (_SIZE * _SMOOTH, _SIZE * _SMOOTH))
        self._pen = ImageDraw.Draw(self._image)

    def drawn(self, paint: Callable[[_Canvas], None]) -> Image.Image:
        paint(self)
        return self._image.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)

    def fade(self, top: str, bottom: str, start: float = 0, end: float = 100) -> None:
        """Fills the rows from `start` to `end`, blending from one colour to the other."""
        first, last = (Image.new("RGB", (1, 1), colour) for colour in (top, bottom))
        low, high = self._scaled((start, end))
        for row in range(int(low), int(high)):
            colour = Image.blend(first, last, (row - low) / (high - low)).getpixel((0, 0))
            self._pen.line([(0, row), (self._image.width, row)], fill=colour)

    def polygon(self, colour: str, points: Points) -> None:
        self._pen.polygon([self._scaled(point) for point in points], fill=colour)

    def ellipse(self, colour: str, x: float, y: float, width: float, height: float) -> None:
        """Fills an ellipse centred on (x, y)."""
        left, top, right, bottom = self._scaled((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        self._pen.ellipse((left, top, right, bottom), fill=colour)

    def box(self, colour: str, left: float, top: float, right: float, bottom: float, radius: float = 0) -> None:
        self._pen.rounded_rectangle(self._scaled((left, top, right, bottom)), radius * self._unit, fill=colour)

    def line(self, colour: str, points: Points, width: float) -> None:
        scaled = [self._scaled(point) for point in points]
        self._pen.line(scaled, fill=colour, width=round(width * self._unit), joint="curve")

    @property
    def _unit(self) -> float:
        return self._image.width / 100

    def _scaled(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(value * self._unit for value in values)


def _airplane(on: _Canvas) -> None:
    on.fade("#5f9fd8", "#cfe4f4")
    on.ellipse("#f3f8fc", 22, 78, 34, 9)
    on.ellipse("#f3f8fc", 80, 20, 30, 8)
    on.polygon("#9aa6b2", [(50, 45), (62, 45), (46, 22), (40, 22)])  # the far wing
    on.polygon("#2f5d9a", [(15, 46), (24, 47), (17, 27), (9, 27)])  # the fin
    on.ellipse("#eef1f4", 52, 50, 82, 14)
    on.polygon("#eef1f4", [(9, 48), (30, 44), (30, 54), (16, 53)])
    on.polygon("#b9c3cd", [(38, 53), (60, 53), (40, 82), (31, 82)])  # the near wing
    on.polygon("#b9c3cd", [(10, 49), (22, 50), (13, 60), (7, 60)])
    on.polygon("#3b4a5c", [(83, 45), (89, 47), (87, 49.5), (82, 49)])
    for x in range(32, 80, 6):
        on.ellipse("#52657a", x, 48, 2.4, 2.4)


def _automobile(on: _Canvas) -> None:
    on.fade("#c6d4df", "#e6ebee", 0, 62)
    on.fade("#6c7075", "#8b8f94", 62, 100)
    on.ellipse("#4f5357", 50, 79, 86, 9)
    on.polygon("#b3202a", [(26, 50), (36, 34), (64, 34), (78, 50)])
    on.polygon("#b8d3e3", [(31, 50), (38.5, 37), (49, 37), (49, 50)])
    on.polygon("#b8d3e3", [(52, 50), (52, 37), (62.5, 37), (72, 50)])
    on.box("#cf2a35", 8, 48, 93, 70, 7)
    on.box("#a81d27", 8, 62, 93, 70, 4)
    on.ellipse("#ffe9a8", 90, 55, 5, 6)
    on.ellipse("#ffb3a0", 10, 55, 4, 6)
    on.box("#efe3e3", 56, 54, 61, 55.5, 0.7)
    for x in (27, 75):
        on.ellipse("#1e2023", x, 70, 20, 20)
        on.ellipse("#c3c8cd", x, 70, 10, 10)


def _bird(on: _Canvas) -> None:
    on.fade("#bfe0c4", "#e8f2d8")
    on.line("#6b4f35", [(0, 84), (40, 80), (100, 86)], 5)
    on.line("#4d3b2a", [(46, 70), (46, 82)], 1.6)
    on.line("#4d3b2a", [(53, 70), (53, 83)], 1.6)
    on.polygon("#34597f", [(28, 56), (34, 66), (6, 80), (4, 74)])  # the tail
    on.ellipse("#4b7fb5", 48, 55, 46, 34)
    on.ellipse("#e9b27a", 54, 60, 30, 22)
    on.ellipse("#4b7fb5", 68, 36, 25, 24)
    on.polygon("#34597f", [(30, 46), (54, 50), (46, 64), (22, 66)])  # the wing
    on.polygon("#e0a12e", [(79, 33), (93, 37), (79, 41)])
    on.ellipse("#14181c", 72, 34, 4.2, 4.2)
    on.ellipse("#ffffff", 73, 33, 1.4, 1.4)


def _cat(on: _Canvas) -> None:
    on.fade("#d8c7b0", "#efe4d3")
    on.ellipse("#8a7a6c", 50, 104, 78, 48)
    for side in (-1, 1):
        on.polygon("#8a7a6c", [(50 + side * 12, 26), (50 + side * 34, 8), (50 + side * 33, 44)])
        on.polygon("#d9a7a0", [(50 + side * 19, 27), (50 + side * 31, 15), (50 + side * 30, 36)])
    on.ellipse("#9a8979", 50, 50, 68, 58)
    for x in (42, 50, 58):
        on.line("#5f5349", [(x, 22), (50 + (x - 50) * 0.7, 36)], 3)
    for side in (-1, 1):
        on.ellipse("#d8d24a", 50 + side * 15, 47, 15, 13)
        on.ellipse("#15150f", 50 + side * 15, 47, 5, 12)
        on.ellipse("#e9dfd3", 50 + side * 7, 64, 17, 14)
        for y in (60, 65, 70):
            on.line("#f6f1ea", [(50 + side * 14, 64 + (y - 65) * 0.5), (50 + side * 42, y)], 0.8)
    on.polygon("#c9786f", [(45.5, 56), (54.5, 56), (50, 61.5)])


def _frog(on: _Canvas) -> None:
    on.fade("#9cc3a0", "#5d8a5a")
    on.ellipse("#3f6b45", 50, 88, 92, 18)
    for side in (-1, 1):
        on.ellipse("#4f9a3a", 50 + side * 30, 72, 28, 34)
        on.ellipse("#3f8030", 50 + side * 36, 86, 30, 8)
    on.ellipse("#62b548", 50, 64, 58, 48)
    on.ellipse("#d6e6a0", 50, 74, 36, 26)
    on.ellipse("#6cc04f", 50, 42, 62, 38)
    for side in (-1, 1):
        on.ellipse("#6cc04f", 50 + side * 20, 26, 22, 22)
        on.ellipse("#f4efc0", 50 + side * 20, 26, 15, 15)
        on.ellipse("#14160f", 50 + side * 20, 26, 9, 7)
        on.ellipse("#3f8030", 50 + side * 12, 88, 18, 8)
        on.ellipse("#33672a", 50 + side * 4, 39, 2, 2)
    on.line("#33672a", [(26, 48), (38, 53), (50, 54.5), (62, 53), (74, 48)], 1.6)


def _ship(on: _Canvas) -> None:
    on.fade("#a9cbe6", "#e3eef5", 0, 62)
    on.fade("#2f6f9f", "#174a72", 62, 100)
    on.box("#f4f4f0", 32, 36, 78, 52)
    on.box("#f4f4f0", 42, 26, 68, 38)
    on.box("#c8372d", 50, 10, 60, 27)
    on.box("#22262b", 50, 10, 60, 14)
    on.line("#5b6470", [(26, 22), (26, 54)], 1.2)
    on.polygon("#22303f", [(8, 51), (94, 51), (84, 72), (18, 72)])
    on.polygon("#b5342c", [(14, 64), (88, 64), (84, 72), (18, 72)])
    for x in range(37, 76, 7):
        on.ellipse("#40566b", x, 44, 3.4, 3.4)
    for y, shift in ((74, 0), (84, 14), (93, 4)):
        for x in range(-10, 100, 30):
            on.line("#7fb0d2", [(x + shift, y), (x + shift + 8, y - 1.5), (x + shift + 16, y)], 1)


_DRAWINGS: dict[str, Callable[[_Canvas], None]] = {
    "airplane": _airplane,
    "automobile": _automobile,
    "bird": _bird,
    "cat": _cat,
    "frog": _frog,
    "ship": _ship,
}
