"""Images that all have one size -> the frame that is wanted. Pictures of many sizes are framed as they are read."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dynconv.data.dataset import Dataset, Split
from dynconv.data.expansion import check_expansion
from dynconv.data.frame import DataConfig, Frame
from dynconv.data.room import room_for
from dynconv.errors import escaped

logger = logging.getLogger(__name__)

HOW = {"crop": "scaled and cropped", "pad": "scaled and padded", "stretch": "stretched"}
"""What happens to an image of another size, in words."""


def in_frame(dataset: Dataset, wanted: DataConfig) -> Dataset:
    """The data set with all images in the frame that is wanted; those that are not, are scaled, and a message says so.

    Raises:
        DataError: tiny images would grow without limit.
    """
    height, width = dataset.train.images.shape[2:]
    frame = wanted.frame([min(height, width)])
    splits = {"train": dataset.train, "test": dataset.test, "validation": dataset.validation}
    others = {name: split for name, split in splits.items() if split and not _fits(split.images, frame)}
    if others:
        height, width = next(iter(others.values())).images.shape[2:]
        logger.info(
            "%s: the images are %dx%d pixels; each is %s to %dx%d",
            escaped(dataset.origin), width, height, HOW[frame.fit], frame.size, frame.size,
        )  # fmt: skip
    framed: dict[str, Any] = {
        name: Split(_framed(split.images, frame, dataset.origin), split.labels) for name, split in others.items()
    }
    return replace(dataset, frame=frame, **framed)


def _fits(images: Tensor, frame: Frame) -> bool:
    return images.shape[2:] == (frame.size, frame.size)


def _framed(images_N3HW: Tensor, frame: Frame, origin: str) -> Tensor:
    advice = "lower --data.size, or give fewer images"
    check_expansion(escaped(origin), len(images_N3HW) * frame.size**2 * 3, images_N3HW.numel(), advice)
    found = room_for(len(images_N3HW), frame.size)
    places = found.permute(0, 2, 3, 1).numpy()

    def put(position: int) -> None:
        pixels = np.ascontiguousarray(images_N3HW[position].permute(1, 2, 0).cpu().numpy())
        places[position] = np.asarray(frame.of(Image.fromarray(pixels)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(put, range(len(found))))
    return found
