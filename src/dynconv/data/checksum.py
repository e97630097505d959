"""What tells whether a data set is the one that a run began with."""

from __future__ import annotations

import hashlib

from torch import Tensor

from dynconv.data.dataset import Dataset

_AT_ONCE = 4096  # images, which may lie in a file


def checksums(dataset: Dataset) -> dict[str, str]:
    """SHA-256 of the `labels`, class names and splits included, and of the `pixels`.

    They are two, because another version of an image library may decode the same files to slightly other pixels.
    """
    labels, pixels = hashlib.sha256(repr(dataset.classes).encode()), hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        if split is None:
            labels.update(b"none")
            continue
        labels.update(f"{len(split.labels)}:".encode())
        labels.update(_bytes(split.labels))
        for images in split.images.split(_AT_ONCE):
            pixels.update(_bytes(images))
    return {"labels": labels.hexdigest(), "pixels": pixels.hexdigest()}


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().numpy().view("uint8").data)
