"""CIFAR-10-like data as NumPy arrays: four `.npy` files in a folder, or one `.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dynconv.data import numpy_file
from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.frame import DataConfig
from dynconv.data.registry import form
from dynconv.errors import escaped

_SPELLINGS = (
    ("train-images", "train-labels", "test-images", "test-labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def find(path: Path) -> Path | None:
    """`path` if it is an `.npz`, or a folder with at least one of the four `.npy` files; else None."""
    if path.is_file():
        return path if path.suffix == ".npz" else None
    return path if any((path / f"{name}.npy").is_file() for names in _SPELLINGS for name in names) else None


@form("train-images.npy and its three companions, or an .npz", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads train and test images, uint8 [N,H,W,3] or [N,3,H,W], or grey ones without or with one channel, and labels,
    whole numbers [N] or [N,1].

    Arrays carry no class names: 50,000 images of 32x32 with 5,000 of each of ten labels are assumed to be CIFAR-10.

    Raises:
        DataError: an array is missing, damaged or of another shape; the error names it.
    """
    known = [name for names in _SPELLINGS for name in names]
    if path.is_file():
        arrays = numpy_file.load_archive(path, known)
    else:
        arrays = {name: numpy_file.load(path / f"{name}.npy") for name in known if (path / f"{name}.npy").is_file()}
    where = escaped(str(path))
    for names in _SPELLINGS:
        if any(name in arrays for name in names):
            break
    else:
        raise DataError(f"{where}: contains none of {', '.join(_SPELLINGS[0])}; give its arrays these names")
    if missing := [name for name in names if name not in arrays]:
        raise DataError(f"{where}: {', '.join(missing)} missing")
    parts = []
    for images_name, labels_name in (names[:2], names[2:]):
        images = _images(f"{where}/{images_name}", arrays[images_name])
        labels = _labels(f"{where}/{labels_name}", arrays[labels_name], len(images))
        parts.append(Split(images, labels))
    train, test = parts
    counts = train.labels.bincount()
    official = sorted(arrays[names[0]].shape) == [3, 32, 32, 50_000] and counts.tolist() == [5000] * 10
    count = max(len(counts), int(test.labels.max()) + 1)
    classes = CLASSES if official else tuple(f"class {i}" for i in range(count))
    return Dataset("cifar10" if official else path.stem, classes, train, test, str(path))


def _images(where: str, array: np.ndarray) -> torch.Tensor:
    """As [N, 3, H, W]; grey images have one channel, or no dimension for it."""
    channels_NHWC = array[..., None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or channels_NHWC.ndim != 4 or not {1, 3} & {*channels_NHWC.shape[1::2]}:
        raise DataError(
            f"{where}: is {array.dtype} {list(array.shape)}, must be uint8 [N,H,W,3] or [N,3,H,W], or for grey images "
            "[N,H,W]"
        )
    if array.size == 0:
        raise DataError(f"{where}: has the shape {list(array.shape)} and contains no images")
    if channels_NHWC.shape[3] not in (1, 3):
        channels_NHWC = channels_NHWC.transpose(0, 2, 3, 1)
    images_NCHW = torch.from_numpy(np.ascontiguousarray(channels_NHWC.transpose(0, 3, 1, 2)))
    return images_NCHW.expand(-1, 3, -1, -1).contiguous()


def _labels(where: str, array: np.ndarray, count: int) -> torch.Tensor:
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise DataError(f"{where}: is {array.dtype} {list(array.shape)}, must be {count} whole numbers")
    if array.min() < 0 or array.max() > 65_535:
        raise DataError(f"{where}: labels run from {array.min()} to {array.max()}, must run from 0 to at most 65535")
    return torch.from_numpy(array.reshape(-1).astype(np.int64))
