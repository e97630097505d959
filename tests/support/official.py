"""Small look-alikes of the official files, for tests: 20 images a batch of CIFAR-10."""

import gzip
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

PER_FILE = 20
MATLAB = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
"""Header of a file of MATLAB, level 5."""
PYTHON_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def batch(seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    return {
        "data": rng.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8),
        "labels": rng.integers(0, 10, PER_FILE).tolist(),
    }


def write_python(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(PYTHON_FILES):
        (folder / name).write_bytes(pickle.dumps(batch(seed), protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"num_cases_per_batch": PER_FILE}))
    return folder


def write_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(PYTHON_FILES):
        content = batch(seed)
        labels = np.array(content["labels"], np.uint8)[:, None]
        (folder / f"{name}.bin").write_bytes(np.concatenate((labels, content["data"]), 1).tobytes())
    return folder


def write_archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def write_cifar100(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training images, [N, 3072], and their fine labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    found = {}
    for name, count in (("train", 20), ("test", 10)):
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        coarse, fine = rng.integers(0, 20, count), rng.integers(0, 100, count)
        if kind == "python":
            batch = {
                "filenames": [f"x{number}.png" for number in range(count)], "batch_label": "batch 1 of 1",
                "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": pixels,
            }  # fmt: skip
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([coarse[:, None], fine[:, None], pixels], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        found[name] = (pixels, fine)
    (folder / ("meta" if kind == "python" else "fine_label_names.txt")).write_bytes(b"")
    return found["train"]


def write_idx(folder: Path, first: tuple[int, ...], packed: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, labels in (("train", [*first, 1, 9]), ("t10k", [3, 1])):
        images[name] = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for kind, dimensions, content in (("images-idx3", images[name].shape, images[name]),
                                          ("labels-idx1", (len(labels),), np.array(labels, np.uint8))):  # fmt: skip
            data = (
                bytes((0, 0, 8, len(dimensions))) + struct.pack(f">{len(dimensions)}I", *dimensions) + content.tobytes()
            )
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return images["train"]


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, array: np.ndarray) -> bytes:
    """A MATLAB array; its name as a small element where it fits into four bytes."""
    small = struct.pack("<HH", 1, len(name)) + name.encode().ljust(4, b"\0")
    kind = 2 if array.dtype == np.uint8 else 9
    parts = [
        element(6, struct.pack("<II", 9 if kind == 2 else 6, 0)),
        element(5, struct.pack(f"<{array.ndim}i", *array.shape)),
        small,
        element(kind, array.tobytes(order="F")),
    ]
    return element(14, b"".join(parts))


def write_svhn(folder: Path, compressed: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, count in (("train", 12), ("test", 10)):
        images[name] = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.float64)[:, None]
        arrays = [matrix("X", images[name]), matrix("y", labels)]
        if compressed:
            packed = [zlib.compress(each) for each in arrays]
            arrays = [struct.pack("<II", 15, len(each)) + each for each in packed]
        (folder / f"{name}_32x32.mat").write_bytes(MATLAB + b"".join(arrays))
    return images["train"]


def write_stl10(folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    images = {}
    for name, count in (("train", 11), ("test", 10)):
        images[name] = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        (folder / f"{name}_X.bin").write_bytes(images[name].transpose(0, 1, 3, 2).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(1 + number % 10 for number in range(count)))
    return images["train"]
