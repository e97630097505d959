"""A tiny network, and its training on a few drawn images: what several tests train."""

from pathlib import Path
from typing import Any

from dynconv.artifacts.environment import environment
from dynconv.artifacts.records import Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.data import Dataset
from dynconv.model.config import ModelConfig
from dynconv.training.config import TrainConfig
from dynconv.training.progress import Progress
from dynconv.training.trainer import Trainer

MODEL = ModelConfig(widths=(8, 8), pools=(4, 2), experts=2)
CONFIG = TrainConfig(epochs=2, batch_size=100, micro_batch=50, image_sizes=(16,), model=MODEL, precision="fp32")
WORDS = [
    "--data", "shapes", "--model.widths", "8", "8", "--model.pools", "4", "2", "--image-sizes", "16", "--epochs", "2",
]  # fmt: skip
"""The same network on the command line."""


def create(path: Path, config: TrainConfig = CONFIG, data_name: str = "shapes", **launch: Any) -> RunDir:
    """A new run directory."""
    return RunDir.create(path, config.model_dump(mode="json"), environment(data_name, **launch))


def train(path: Path, dataset: Dataset, *, device: str = "cpu", **changes: Any) -> tuple[RunDir, Summary]:
    """`CONFIG` with some fields changed, trained on `dataset`."""
    config = CONFIG.model_copy(update=changes)
    run = create(path, config, dataset.name)
    with Progress() as progress:
        return run, Trainer(config, dataset, run, progress, device=device).fit()
