from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sweeps import FIELDS

from dynconv.data import shapes


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 600 generated images for training, and 100 for the test."""
    folder, dataset = tmp_path_factory.mktemp("images"), shapes.generate(0, 600, 100)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        np.save(folder / f"{name}-images.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(folder / f"{name}-labels.npy", split.labels.numpy())
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file for `dynconv sweep`."""

    def write(search: Any, **fields: Any) -> Path:
        file = tmp_path / "search.yaml"
        tree = {"fields": FIELDS, "search": search, "holdout": 100, **fields}
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return file

    return write
