"""MNIST and data sets in its format: four files of the type IDX, plain or gzipped, of grey images of 28x28 pixels.

LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: Xiao et al. 2017,
https://arxiv.org/abs/1708.07747. Both have the same file names; their first labels tell which is which.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from dynconv.data.dataset import DataError, Dataset, Split
from dynconv.data.download import Official
from dynconv.data.expansion import check_expansion
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set, form
from dynconv.errors import escaped

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
_FIRST_LABELS = {
    (5, 0, 4, 1, 9, 2, 1, 3, 1, 4): ("mnist", DIGITS),
    (9, 0, 0, 3, 0, 2, 7, 2, 5, 5): ("fashion-mnist", CLOTHES),
}
_LARGEST = 1 << 30  # bytes of an array; the official one of the training images has 47 million
_UBYTE = 0x08

MNIST = Official(
    "mnist",
    {
        f"{FILES[0]}.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        f"{FILES[1]}.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        f"{FILES[2]}.gz": "9fb629c4189551a2d022fa330f9573f3",
        f"{FILES[3]}.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    12,
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
)
FASHION = Official(
    "fashion-mnist",
    {
        f"{FILES[0]}.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{FILES[1]}.gz": "25c81989df183df01b3e8a0aad5dffbe",
        f"{FILES[2]}.gz": "bef4ecab320f06d8554ea6380940ec79",
        f"{FILES[3]}.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    31,
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
)


def find(path: Path) -> Path | None:
    """`path`, or its subfolder `raw`, if it holds at least one of the four files; else None."""
    folders = (path, path / "raw")
    return next((each for each in folders if any(_file(each, name) for name in FILES)), None)


@form(f"{FILES[0]} and its three companions, plain or .gz (MNIST, Fashion-MNIST)", find)
def read(path: Path, _: DataConfig) -> Dataset:
    """Reads the four files. Grey becomes RGB.

    Raises:
        DataError: a file is missing, damaged, or not of this type; the error names it.
    """
    if missing := [name for name in FILES if not _file(path, name)]:
        raise DataError(f"{escaped(str(path))}: {', '.join(missing)} missing; copy the whole data set again")
    parts = []
    for images_name, labels_name in (FILES[:2], FILES[2:]):
        images, labels = _array(path, images_name, 3), _array(path, labels_name, 1)
        if len(images) != len(labels):
            raise DataError(
                f"{escaped(str(path))}: {images_name} has {len(images):,} images, but {len(labels):,} labels"
            )
        pixels = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).contiguous()
        parts.append(Split(pixels, torch.from_numpy(labels.astype(np.int64))))
    first = tuple(parts[0].labels[:10].tolist())
    count = 1 + max(int(part.labels.max()) for part in parts)
    name, classes = _FIRST_LABELS.get(first, (path.name, tuple(f"class {label}" for label in range(count))))
    train, test = parts
    return Dataset(name, classes, train, test, str(path))


@data_set("mnist", "MNIST", DIGITS, archive=f"{FILES[0]}.gz and its companions", mirrored=False, train_images=60_000)
def mnist(_: int, wanted: DataConfig) -> Dataset:
    """MNIST, downloaded to the cache; the seed is ignored. Raises DataError."""
    return read(MNIST.download(), wanted)


@data_set("fashion-mnist", "Fashion-MNIST", CLOTHES, archive=f"{FILES[0]}.gz and its companions", train_images=60_000)
def fashion_mnist(_: int, wanted: DataConfig) -> Dataset:
    """Fashion-MNIST, downloaded to the cache; the seed is ignored. Raises DataError."""
    return read(FASHION.download(), wanted)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _array(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The array of bytes in a file: two zeros, the type, the number of dimensions, each as 32 bits, and the bytes."""
    path = _file(folder, name)
    assert path
    where = escaped(str(path))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, _UBYTE, dimensions)):
                raise DataError(f"{where}: is not an IDX file of {dimensions} dimensions of bytes; copy it again")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            if not 0 < size <= _LARGEST:
                raise DataError(f"{where}: claims the shape {list(shape)}; use the official files")
            check_expansion(where, size, path.stat().st_size, "use the official files")
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{where}: truncated or damaged ({escaped(str(error))}); copy it again") from error
    if len(content) != size:
        raise DataError(f"{where}: has {'more' if len(content) > size else 'fewer'} than {size:,} bytes; copy it again")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # which torch can write to
