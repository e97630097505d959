"""Small look-alikes of the official files, for tests: 20 images a batch."""

import pickle
import tarfile
from pathlib import Path

import numpy as np

PER_FILE = 20
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
