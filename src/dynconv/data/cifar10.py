"""The official layouts of CIFAR-10: the python version (pickles) and the binary version, as folder or as archive.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html. Archives are read member by member, in memory: nothing is
unpacked to disk, so a member named `../x` can do no harm; it is refused all the same. Pickles are read by an unpickler
that admits only what the official files contain, since an ordinary one would run whatever code a file asks for.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from dynconv.data.dataset import DataError, Dataset, Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PYTHON_FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
PYTHON_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY_FILES = tuple(f"{name}.bin" for name in PYTHON_FILES)
_PIXELS = 3 * 32 * 32
_PER_FILE = 10_000
_LARGEST_MEMBER = 64 << 20

Read = Callable[[str], bytes]
"""From the name of a batch file to its bytes; KeyError where there is none."""


def find(path: Path) -> Path | None:
    """Where under `path` an official layout lies: a folder of batches or an archive. None if there is none."""
    if path.is_file():
        return path if path.name.endswith((".tar.gz", ".tgz", ".tar")) else None
    for folder in (path, path / PYTHON_FOLDER, path / BINARY_FOLDER):
        if any((folder / name).is_file() for name in (*PYTHON_FILES, *BINARY_FILES)):
            return folder
    return next((path / name for name in ARCHIVES if (path / name).is_file()), None)


def read(path: Path) -> Dataset:
    """Reads what `find` found.

    Raises:
        DataError: a batch is missing, truncated, or not what the official files contain; names the file.
    """
    if path.is_file():
        members = _archive_members(path)

        def get(name: str) -> bytes:
            return members[name]

        names = set(members)
    else:

        def get(name: str) -> bytes:
            return (path / name).read_bytes()

        names = {entry.name for entry in path.iterdir() if entry.is_file()}
    binary = not names & set(PYTHON_FILES)
    files, decode = (BINARY_FILES, _decode_binary) if binary else (PYTHON_FILES, _decode_python)
    if missing := [name for name in files if name not in names]:
        raise DataError(f"{path}: {', '.join(missing)} missing; copy the data set again, whole")
    images, labels = [], []
    for name in files:
        where = f"{path}/{name}"
        try:
            x, y = decode(where, get(name))
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror})") from error
        images.append(torch.from_numpy(x.reshape(-1, 3, 32, 32)))
        labels.append(torch.from_numpy(y.astype(np.int64)))
    train = Split(torch.cat(images[:-1]), torch.cat(labels[:-1]))
    return Dataset("cifar10", CLASSES, train, Split(images[-1].clone(), labels[-1]), str(path))


def _decode_python(where: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _BatchUnpickler(where, data).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where}: truncated or damaged ({type(error).__name__}); copy the file again") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise DataError(f"{where}: has no 'data' and 'labels'; this is not a CIFAR-10 batch")
    images, labels = batch["data"], batch["labels"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (_PER_FILE, _PIXELS):
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{where}: images are {found}, need uint8 [{_PER_FILE}, {_PIXELS}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: labels are not a list of whole numbers")
    return images, _checked_labels(where, np.array(labels, dtype=object))


def _decode_binary(where: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = _PER_FILE * (1 + _PIXELS)
    if len(data) != expected:
        raise DataError(f"{where}: has {len(data):,} bytes, needs {expected:,}; copy the file again")
    rows = np.frombuffer(data, np.uint8).reshape(_PER_FILE, 1 + _PIXELS)
    return rows[:, 1:].copy(), _checked_labels(where, rows[:, 0])


def _checked_labels(where: str, labels: np.ndarray) -> np.ndarray:
    if len(labels) != _PER_FILE:
        raise DataError(f"{where}: has {len(labels)} labels, needs {_PER_FILE}")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{where}: labels run from {labels.min()} to {labels.max()}, need 0 to 9")
    return labels


class _BatchUnpickler(pickle.Unpickler):
    """Admits lists, dicts, strings, numbers and NumPy's uint8 arrays, and nothing that could run code."""

    def __init__(self, where: str, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("numpy", "ndarray"): _NDARRAY, ("numpy", "dtype"): _uint8_dtype}
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 3 writes them into the official protocol 2
            return _latin1_bytes
        if (module, name) in allowed:
            return allowed[module, name]
        raise DataError(f"{self._where}: asks for {module}.{name}, which no CIFAR-10 file needs; refused as unsafe")

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"{self._where}: refers to outside objects, which no CIFAR-10 file does; refused as unsafe")


# What a pickle gets in place of the class ndarray: calling it, as a crafted file might, is an error.
_NDARRAY = object()


def _latin1_bytes(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("not bytes")
    return text.encode("latin1")


def _uint8_dtype(code: object, *_: object) -> Any:
    if code != "u1":
        raise ValueError(f"an array of type {code!r}")
    return np.dtype(np.uint8, copy=True)  # the pickle goes on to set its state


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    if kind is not _NDARRAY or shape != (0,):
        raise ValueError("not the reconstruction of an array")
    return np.empty(0, np.uint8)


def _archive_members(path: Path) -> dict[str, bytes]:
    """The batch files of an archive by their base names."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{path}: holds {member.name!r}, a link or a path that leads outside; refused as unsafe"
                    )
                if name.name not in (*PYTHON_FILES, *BINARY_FILES):
                    continue
                if name.name in members:
                    raise DataError(f"{path}: holds {name.name} twice; take the official archive")
                if member.size > _LARGEST_MEMBER:
                    raise DataError(f"{path}: {name.name} has {member.size:,} bytes; take the official archive")
                file = archive.extractfile(member)
                members[name.name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(
            ":"
        )  # tarfile lists every method it tried
        raise DataError(f"{path}: truncated or not an archive ({reason}); get it again") from error
    if not members:
        raise DataError(f"{path}: holds none of the files of CIFAR-10 ({PYTHON_FILES[0]}, ...)")
    return members
