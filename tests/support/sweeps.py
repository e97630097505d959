"""Running `dynconv sweep` and reading what it has written."""

import json
from pathlib import Path
from typing import Any

from dynconv.cli.main import main

FIELDS: dict[str, Any] = {
    "epochs": 2, "batch_size": 50, "micro_batch": 50, "image_sizes": [16], "precision": "fp32",
    "model": {"widths": [8, 8], "pools": [4, 2]},
}  # fmt: skip
"""The tiny network of the other tests."""


def words(file: Path, images: Path) -> list[str]:
    """The command, whose folder lies beside the file."""
    return ["sweep", str(file), "--data", str(images), "--output", str(file.parent / "sweep"), "--device", "cpu"]


def sweep(file: Path, images: Path, *more: str) -> int:
    return main([*words(file, images), *more])


def found(file: Path) -> dict[str, Any]:
    """The content of sweep.json."""
    tree: dict[str, Any] = json.loads((file.parent / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    return tree
