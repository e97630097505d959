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
from collections.abc import Sequence
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
_ROWS = 256  # images that are compared with all others at once


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


def fingerprints(images_N3HW: np.ndarray) -> list[Fingerprint]:
    """Those of images of which nothing but the pixels is known."""
    pixels = (np.ascontiguousarray(image.transpose(1, 2, 0)) for image in images_N3HW)
    return [fingerprint(each.data, Image.fromarray(each)) for each in pixels]


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
    """For each image, the first one that it is a near copy of and that is not itself one of another; or itself.

    Candidates are found by brightness alone, in float32, whose rounding differs between machines; they are more than
    the near copies. What they are is then computed in whole numbers.
    """
    chosen = np.nonzero(telling(thumbnails_NSSC))[0]
    pixels_MP = thumbnails_NSSC[chosen].reshape(len(chosen), 3 * SIDE**2)
    grey_MP = _grey(thumbnails_NSSC[chosen]).reshape(len(chosen), SIDE**2)
    most_noise_M = _most_noise(grey_MP)
    unit_MP, least_cosine_M = _directions(grey_MP, most_noise_M)
    leaders = np.arange(len(chosen))
    for start in range(0, len(chosen), _ROWS):
        candidates = unit_MP[start : start + _ROWS] @ unit_MP[start:].T >= least_cosine_M[start:]
        for first, found in enumerate(candidates, start):
            seconds = start + np.nonzero(found)[0]
            seconds = seconds[(seconds > first) & (leaders[seconds] == seconds)]
            if leaders[first] != first or not len(seconds):
                continue
            allowed = np.minimum(most_noise_M[first], most_noise_M[seconds])
            leaders[seconds[_noise(pixels_MP[first], pixels_MP[seconds]) <= allowed]] = first
    of_all = np.arange(len(thumbnails_NSSC))
    of_all[chosen] = chosen[leaders]
    return of_all


def telling(thumbnails_NSSC: np.ndarray) -> np.ndarray:
    """Whether each image has enough contrast to be compared, bool [N]."""
    grey_NSS = _grey(thumbnails_NSSC)
    steps = [np.abs(np.diff(grey_NSS, axis=axis)).reshape(len(grey_NSS), -1) for axis in (1, 2)]
    telling_N: np.ndarray = (np.concatenate(steps, 1) >= _GREY.sum() * LEAST_STEP).mean(1) >= LEAST_STEPS
    return telling_N


def _grey(thumbnails_NSSC: np.ndarray) -> np.ndarray:
    grey_NSS: np.ndarray = thumbnails_NSSC.astype(np.int64) @ _GREY
    return grey_NSS


def _most_noise(grey_NP: np.ndarray) -> np.ndarray:
    """The noise that a near copy of each image may have, in levels of 255, [N]."""
    place = 2 * np.arange(SIDE) - (SIDE - 1)
    square, across_P, down_P = int((place**2).sum()) * SIDE, np.tile(place, SIDE), np.repeat(place, SIDE)
    slope_NP = np.outer(grey_NP @ across_P, across_P) + np.outer(grey_NP @ down_P, down_P)
    detail_NP = (grey_NP * SIDE**2 - grey_NP.sum(1, keepdims=True)) * square - slope_NP * SIDE**2
    most_noise_N: np.ndarray = np.minimum(
        MOST_NOISE, MOST_RELATIVE_NOISE * (detail_NP / (int(_GREY.sum()) * SIDE**2 * square)).std(1)
    )
    return most_noise_N


def _directions(grey_NP: np.ndarray, most_noise_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness as float32 vectors of length 1, and the least cosine that a near copy of each image may have.

    If R, G and B differ by a noise n, their brightness differs by less than 1.2 n: sqrt(3 (0.3^2 + 0.6^2 + 0.1^2)). The
    rest, up to 1.5 n, is room for rounding.
    """
    power_N = (grey_NP.astype(np.float64) ** 2).sum(1)
    unit_NP = (grey_NP / np.sqrt(power_N)[:, None]).astype(np.float32)
    most_N = SIDE**2 * (1.5 * _GREY.sum() * most_noise_N) ** 2 / power_N  # of 1, the power of the difference
    return unit_NP, np.sqrt((1 - most_N).clip(0)).astype(np.float32)


def _noise(first_P: np.ndarray, seconds_MP: np.ndarray) -> np.ndarray:
    """What thumbnails differ by but for their brightness, in levels of 255, [M]; infinite beyond MOST_BRIGHTENED."""
    first_P, seconds_MP = first_P.astype(np.int64), seconds_MP.astype(np.int64)
    product_M = seconds_MP @ first_P
    square_M = ((seconds_MP**2).sum(1) - product_M**2 / (first_P**2).sum()) / len(first_P)
    darker_M, brighter_M = np.sort(np.stack(np.broadcast_arrays(seconds_MP.sum(1), first_P.sum())), 0)
    noise_M: np.ndarray = np.where(brighter_M <= MOST_BRIGHTENED * darker_M, np.sqrt(square_M.clip(0)), np.inf)
    return noise_M


def set_aside(prints: Sequence[Fingerprint], labels: Sequence[int]) -> np.ndarray:
    """Which images are for testing, bool [N]: a fifth of each class, at least one, with all copies on one side.

    Where all images of a class are near copies of one another, only those that are identical stay on one side. The
    result depends on the images' content alone: on no seed, no name and no order.

    Raises:
        CannotSplitError: a class has one image, or all its images are identical.
    """
    wanted = np.maximum(np.bincount(labels) // TEST_SHARE, 1)
    return apart(prints, labels, wanted, [each.content for each in prints])


def apart(
    prints: Sequence[Fingerprint], labels: Sequence[int], wanted: np.ndarray, ranks: Sequence[bytes] | Sequence[int]
) -> np.ndarray:
    """Which images to set aside, bool [N]: so many of each class as are wanted, with all copies on one side.

    A class gives fewer where its groups of copies do not add up, and more where otherwise it would give none. Where all
    images of a class are near copies of one another, only those that are identical stay on one side.

    Args:
        wanted: a number for each class, less than it has images.
        ranks: the images with the lowest ones are taken first, and their copies with them.

    Raises:
        CannotSplitError: a class has one image, or all its images are identical.
    """
    labels_N = np.asarray(labels)
    counts = np.bincount(labels_N, minlength=len(wanted))
    taken = np.zeros_like(counts)
    chosen = np.zeros(len(labels_N), bool)
    for near in (True, False):
        lacking = (taken == 0) & (wanted > 0)
        groups = groups_of_copies(prints, near=near) if lacking[counts > 0].any() else []
        in_order = sorted(groups, key=lambda group: min(ranks[each] for each in group))
        for at_least in (False, True):  # then, for classes of which every group was too large
            for group in sorted(in_order, key=len) if at_least else in_order:
                own = np.bincount(labels_N[group], minlength=len(counts))
                here = own > 0
                fits = lacking[here].any() and (taken + own <= wanted)[here].all()
                needed = at_least and (lacking & (taken == 0))[here].any() and (taken + own < counts)[here].all()
                if not chosen[group].any() and (fits or needed):
                    chosen[group] = True
                    taken += own
    for label in np.nonzero((counts > 0) & (wanted > 0))[0]:
        if counts[label] < 2:
            raise CannotSplitError(int(label), "has one image, needs two or more")
        if taken[label] == 0:
            problem = f"its {counts[label]} images are copies of one another, so none can be set aside"
            raise CannotSplitError(int(label), problem)
    return chosen
