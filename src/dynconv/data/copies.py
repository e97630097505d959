"""Images that are copies of one another, or nearly so; and a split that keeps copies on one side.

Two images are near copies if their brightness rises and falls alike (a difference hash of 64 bits, at most
`MOST_BITS` of which differ) and their colours are alike (the mean difference of thumbnails of 8x8 pixels). That finds a
picture saved again, scaled, or slightly brightened; not one that was turned, mirrored or cropped.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

MOST_BITS = 3
"""Bits in which the hashes of near copies may differ."""
MOST_COLOUR = 4.0
"""Mean difference of the colours of near copies, of 255."""
TEST_SHARE = 5
"""One image of so many is set aside for testing."""
_BANDS = 4  # MOST_BITS + 1 parts of a hash: near copies agree in one of them


class CannotSplitError(Exception):
    """Why a class, by its label, cannot be split."""

    def __init__(self, label: int, problem: str) -> None:
        super().__init__(problem)
        self.label = label


@dataclass(frozen=True)
class Fingerprint:
    """What tells whether two images are copies.

    Attributes:
        content: a hash of the file, or of the pixels.
        gradient: 64 bits, each whether a part of the image is brighter than the part to its left.
        colours: uint8 [8, 8, 3].
    """

    content: bytes
    gradient: int
    colours: np.ndarray


def fingerprint(content: bytes | memoryview, image: Image.Image) -> Fingerprint:
    """That of an image in RGB, and of the bytes that it was read from."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
    colours = np.asarray(image.resize((8, 8), Image.Resampling.BOX))
    return Fingerprint(hashlib.sha256(content).digest()[:16], int.from_bytes(bits, "big"), colours)


def groups_of_copies(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """The positions of the images, those that are copies of one another together; each once, the smallest first."""
    leaders = list(range(len(prints)))

    def leader(position: int) -> int:
        while leaders[position] != position:
            leaders[position] = leaders[leaders[position]]
            position = leaders[position]
        return position

    for first, second in _pairs(prints):
        a, b = sorted((leader(first), leader(second)))
        leaders[b] = a
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(prints)):
        groups[leader(position)].append(position)
    return list(groups.values())


def _pairs(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs of copies; enough of them to connect all that are."""
    same: dict[bytes, int] = {}
    for position, each in enumerate(prints):
        earlier = same.setdefault(each.content, position)
        if earlier != position:
            yield earlier, position
    distinct = np.array(sorted(same.values()), np.int64)
    gradients = np.array([prints[position].gradient for position in distinct], np.uint64)
    colours = np.stack([prints[position].colours for position in distinct]).reshape(len(distinct), -1).astype(np.int16)
    width = 64 // _BANDS
    for band in range(_BANDS):
        keys = (gradients >> np.uint64(band * width)) & np.uint64((1 << width) - 1)
        order = np.lexsort((colours.mean(1), keys))  # of the same key, by brightness
        for members in np.split(order, np.nonzero(np.diff(keys[order]))[0] + 1):
            yield from ((int(distinct[a]), int(distinct[b])) for a, b in _alike(members, gradients, colours))


def _alike(members: np.ndarray, gradients: np.ndarray, colours: np.ndarray) -> Iterator[tuple[int, int]]:
    """The near copies among images in the order of their brightness."""
    brightness = colours[members].mean(1)
    ends = np.searchsorted(brightness, brightness + MOST_COLOUR, side="right")
    for place, end in enumerate(ends):
        others = members[place + 1 : end]
        if not len(others):
            continue
        own = members[place]
        others = others[np.bitwise_count(gradients[others] ^ gradients[own]) <= MOST_BITS]
        close = np.abs(colours[others] - colours[own]).mean(1) <= MOST_COLOUR
        yield from ((own, other) for other in others[close])


def set_aside(prints: Sequence[Fingerprint], labels: Sequence[int]) -> np.ndarray:
    """Which images are for testing, bool [N]: a fifth of each class, at least one, with all copies on one side.

    It depends on the images' content alone: on no seed, no name and no order.

    Raises:
        CannotSplitError: a class has no image that can be set aside.
    """
    labels_N = np.asarray(labels)
    counts = np.bincount(labels_N)
    wanted = np.maximum(counts // TEST_SHARE, 1)
    taken = np.zeros_like(counts)
    chosen = np.zeros(len(labels_N), bool)
    by_content = sorted(groups_of_copies(prints), key=lambda group: min(prints[each].content for each in group))
    for at_least in (False, True):  # then, for classes of which every group was too large
        for group in sorted(by_content, key=len) if at_least else by_content:
            own = np.bincount(labels_N[group], minlength=len(counts))
            here = own > 0
            fits = (taken + own <= wanted)[here].all()
            needed = at_least and (taken[here] == 0).any() and (taken + own < counts)[here].all()
            if not chosen[group].any() and (fits or needed):
                chosen[group] = True
                taken += own
    for label in np.nonzero(counts > 0)[0]:
        if counts[label] < 2:
            raise CannotSplitError(int(label), "has one image, needs two or more")
        if taken[label] == 0:
            problem = f"its {counts[label]} images are copies of one another, so none can be set aside"
            raise CannotSplitError(int(label), problem)
    return chosen
