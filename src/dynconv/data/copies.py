"""Images that are copies of one another, or nearly so; and a split that keeps copies on one side.

Two files of the same bytes are copies. Two images are near copies if thumbnails of 12x12 pixels are the same, but for
brightness and a little noise. That finds a picture saved again, scaled, or slightly brightened; not one that was
turned, mirrored or cropped. Of images with little contrast, such as a small drawing on white or a clear sky, the
thumbnails say nothing: whatever shows which image it is lies below the noise. They have no near copies.

A group of near copies is one image and those that resemble it. So resemblance does not run on from image to image, as
it would along the frames of a film.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 12
"""Pixels of a thumbnail's side."""
MOST_NOISE = 4.0
"""Root mean square of the difference between the thumbnails of near copies, of 255."""
MOST_RELATIVE_NOISE = 0.3
"""The same as a part of the contrast: what a thumbnail's brightness varies around an even slope."""
MOST_BRIGHTENED = 1.2
"""Factor between the brightness of near copies."""
LEAST_STEP, LEAST_STEPS = 3.0, 1 / 4
"""An image has near copies if so many of the steps between neighbouring pixels of its thumbnail have this height."""
TEST_SHARE = 5
"""One image of so many is set aside for testing."""

_GREY = np.array([3, 6, 1])  # tenths of brightness; whole numbers, as the result must be the same on every machine
_BITS = 64  # of a code
_KEY, _WEAK = 20, 6  # bits of a code by which it is looked up, and those of them that a near copy may have otherwise
_MOST_OTHER_BITS = 16
_ROWS, _PAIRS = 256, 1 << 13  # images that are measured or looked up at once, and pairs that are compared at once
_MOST_OF_A_KEY = _MOST_COMPARED = 128  # images that one is compared with at most: thousands may look alike


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
        thumbnail: uint8 [12, 12, 3].
    """

    content: bytes
    thumbnail: np.ndarray


def fingerprint(content: bytes | memoryview, image: Image.Image) -> Fingerprint:
    """That of an image in RGB, and of the bytes that it was read from."""
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Fingerprint(hashlib.sha256(content).digest()[:16], thumbnail)


def groups_of_copies(prints: Sequence[Fingerprint], *, near: bool = True) -> list[list[int]]:
    """The positions of the images, those that are copies of one another together; each once, the smallest first.

    Args:
        near: whether near copies count, too.
    """
    same: dict[bytes, list[int]] = defaultdict(list)
    for position, each in enumerate(prints):
        same[each.content].append(position)
    contents = sorted(same)  # so that the groups do not depend on the order of the images
    leaders = np.arange(len(contents))
    if near and contents:
        leaders = _leaders(np.stack([prints[same[content][0]].thumbnail for content in contents]))
    groups: dict[int, list[int]] = defaultdict(list)
    for content, leader in zip(contents, leaders.tolist(), strict=True):
        groups[leader] += same[content]
    return sorted(map(sorted, groups.values()))


def _leaders(thumbnails_NSSC: np.ndarray) -> np.ndarray:
    """For each image, the first one that it is a near copy of and that is not itself one of another; or itself."""
    looks = _Looks(thumbnails_NSSC)
    leaders = np.arange(len(thumbnails_NSSC))
    telling = np.nonzero(looks.telling)[0]
    places = np.sort(looks.keys[telling] << 32 | telling)  # by key, then as they come
    for start in range(0, len(telling), _ROWS):
        rows = telling[start : start + _ROWS]
        rows = rows[leaders[rows] == rows]
        keys = looks.near_keys(rows)
        starts = np.searchsorted(places, (keys << 32 | rows[:, None]) + 1).ravel()
        ends = np.searchsorted(places, keys + 1 << 32).ravel()
        counts = np.minimum(ends - starts, _MOST_OF_A_KEY)
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        seconds = places[np.repeat(starts, counts) + within] & 0xFFFFFFFF
        firsts = np.repeat(rows, counts.reshape(keys.shape).sum(1))
        for first, second in looks.near(firsts, seconds):
            if leaders[first] == first and leaders[second] == second:
                leaders[second] = first
    return leaders


class _Looks:
    """Thumbnails, and codes by which those that may be near copies are found.

    The bits of a code are the signs of the slowest waves in the brightness (of its cosine transform) without its mean
    and its slope, which many images share. A near copy has other signs only where a wave is weak.

    Attributes:
        telling: bool [N], whether the image has the contrast to compare it.
        keys: int64 [N], the first bits of the code.
    """

    def __init__(self, thumbnails_NSSC: np.ndarray) -> None:
        parts = [_measured(thumbnails_NSSC[start : start + _ROWS]) for start in range(0, len(thumbnails_NSSC), _ROWS)]
        self.telling, self._most_noise, self._codes, self._weak_bits = map(np.concatenate, zip(*parts, strict=True))
        self.keys = (self._codes & np.uint64((1 << _KEY) - 1)).astype(np.int64)
        self._pixels = thumbnails_NSSC.reshape(len(thumbnails_NSSC), -1)
        self._brightness = self._pixels.sum(1, dtype=np.int64)
        self._power = np.einsum("np,np->n", self._pixels, self._pixels, dtype=np.int64)

    def near_keys(self, rows: np.ndarray) -> np.ndarray:
        """The keys that near copies of these images may have, int64 [R, 64]."""
        chosen_VK = np.arange(1 << _WEAK)[:, None] >> np.arange(_WEAK) & 1
        return self.keys[rows, None] ^ (self._weak_bits[rows] @ chosen_VK.T)

    def near(self, firsts: np.ndarray, seconds: np.ndarray) -> Iterator[tuple[int, int]]:
        """Those of the pairs that are near copies, by the first of a pair, which must be in order."""
        other_bits = np.bitwise_count(self._codes[firsts] ^ self._codes[seconds])
        darker, brighter = np.sort(self._brightness[np.stack((firsts, seconds))], 0)
        maybe = np.nonzero((other_bits <= _MOST_OTHER_BITS) & (brighter <= MOST_BRIGHTENED * darker))[0]
        maybe = maybe[np.lexsort((seconds[maybe], other_bits[maybe], firsts[maybe]))]
        rank = np.arange(len(maybe)) - np.searchsorted(firsts[maybe], firsts[maybe])
        maybe = maybe[rank < _MOST_COMPARED]
        for start in range(0, len(maybe), _PAIRS):
            part = maybe[start : start + _PAIRS]
            near = self._are_near(firsts[part], seconds[part])
            yield from zip(firsts[part][near].tolist(), seconds[part][near].tolist(), strict=True)

    def _are_near(self, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Whether thumbnails differ in no more than brightness and noise, bool [M]."""
        product_M = np.einsum("mp,mp->m", self._pixels[firsts], self._pixels[seconds], dtype=np.int64)
        power_M = self._power[firsts].astype(np.float64)
        square_M = (self._power[seconds] - product_M**2 / power_M) / self._pixels.shape[1]
        noise_M = np.sqrt(square_M.clip(0))
        near_M: np.ndarray = noise_M <= np.minimum(self._most_noise[firsts], self._most_noise[seconds])
        return near_M


def _measured(thumbnails_NSSC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each image: whether it is telling, the noise of a near copy, its code, and the weak bits of its key."""
    n = len(thumbnails_NSSC)
    grey_NSS = thumbnails_NSSC.astype(np.int64) @ _GREY
    steps = [np.abs(np.diff(grey_NSS, axis=axis)).reshape(n, -1) for axis in (1, 2)]
    telling_N = (np.concatenate(steps, 1) >= _GREY.sum() * LEAST_STEP).mean(1) >= LEAST_STEPS
    detail_NP, unit = _without_slope(grey_NSS)
    most_noise_N = np.minimum(MOST_NOISE, MOST_RELATIVE_NOISE * (detail_NP / unit).std(1))
    signal_NW = detail_NP @ _WAVES_PW
    code_N = ((signal_NW > 0) << np.arange(_BITS, dtype=np.uint64)).sum(1, dtype=np.uint64)
    strength_NK = np.abs(signal_NW[:, :_KEY]) / np.sqrt((_WAVES_PW[:, :_KEY] ** 2).sum(0))
    weak_bits_NV = 1 << np.argsort(strength_NK, 1, kind="stable")[:, :_WEAK]
    return telling_N, most_noise_N, code_N, weak_bits_NV


def _without_slope(grey_NSS: np.ndarray) -> tuple[np.ndarray, int]:
    """Brightness without its mean and its slope, and the unit of both: one level of 255. Exact, so in whole numbers."""
    place = 2 * np.arange(SIDE) - (SIDE - 1)
    square = int((place**2).sum()) * SIDE
    across_N11 = (grey_NSS * place).sum((1, 2), keepdims=True)
    down_N11 = (grey_NSS * place[:, None]).sum((1, 2), keepdims=True)
    slope_NSS = across_N11 * place + down_N11 * place[:, None]
    detail_NSS = (grey_NSS * SIDE**2 - grey_NSS.sum((1, 2), keepdims=True)) * square - slope_NSS * SIDE**2
    return detail_NSS.reshape(len(grey_NSS), -1), int(_GREY.sum()) * SIDE**2 * square


def _waves() -> np.ndarray:
    """The slowest waves of the cosine transform but for the mean and the slopes, in thousandths, int64 [P, 64]."""
    turns_SS = np.outer(np.arange(SIDE), 2 * np.arange(SIDE) + 1) / (4 * SIDE)
    cosine_SS = np.rint(1000 * np.cos(2 * np.pi * turns_SS)).astype(np.int64)
    both = [(down, across) for down in range(SIDE) for across in range(SIDE) if down + across > 1]
    slowest = sorted(both, key=lambda wave: (wave[0] ** 2 + wave[1] ** 2, wave))[:_BITS]
    return np.stack([np.outer(cosine_SS[down], cosine_SS[across]).ravel() for down, across in slowest], 1)


_WAVES_PW = _waves()


def set_aside(prints: Sequence[Fingerprint], labels: Sequence[int]) -> np.ndarray:
    """Which images are for testing, bool [N]: a fifth of each class, at least one, with all copies on one side.

    Where all images of a class are near copies of one another, only those that are identical stay on one side. The
    result depends on the images' content alone: on no seed, no name and no order.

    Raises:
        CannotSplitError: a class has one image, or all its images are identical.
    """
    labels_N = np.asarray(labels)
    counts = np.bincount(labels_N)
    wanted = np.maximum(counts // TEST_SHARE, 1)
    taken = np.zeros_like(counts)
    chosen = np.zeros(len(labels_N), bool)
    for near in (True, False):
        lacking = taken == 0
        groups = groups_of_copies(prints, near=near) if lacking[counts > 0].any() else []
        by_content = sorted(groups, key=lambda group: min(prints[each].content for each in group))
        for at_least in (False, True):  # then, for classes of which every group was too large
            for group in sorted(by_content, key=len) if at_least else by_content:
                own = np.bincount(labels_N[group], minlength=len(counts))
                here = own > 0
                fits = lacking[here].any() and (taken + own <= wanted)[here].all()
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
