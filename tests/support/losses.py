"""A small training on the real images whose every loss is on record.

    OMP_NUM_THREADS=1 python tests/support/losses.py CIFAR-10 FOLDER    prints the losses, and what they depend on

The record was made when one operator began to normalise, more exactly than torch. It has to be made again where a
change is meant to move the numbers, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from dynconv import data
from dynconv.artifacts.environment import environment
from dynconv.artifacts.rundir import RunDir
from dynconv.data import Dataset, Split
from dynconv.layer.ops import fused, norm_gelu, winograd
from dynconv.model.config import ModelConfig
from dynconv.training.config import OptimConfig, TrainConfig
from dynconv.training.progress import Progress
from dynconv.training.trainer import Trainer

CONFIG = TrainConfig(
    seed=3, epochs=2, batch_size=200, micro_batch=100, image_sizes=(16, 20), precision="fp32",
    model=ModelConfig(widths=(16, 16, 32, 32), pools=(2, 1, 2, 1), experts=3),
    optim=OptimConfig(lr=0.17, bias_lr=53.0, head_lr=0.035),
)  # fmt: skip


def losses(source: Path, folder: Path) -> dict[str, Any]:
    """Of 300 steps on 30,000 images, and the accuracies at the end."""
    whole = data.load(str(source))
    train, test = (Split(s.images[:n], s.labels[:n]) for s, n in ((whole.train, 31_000), (whole.test, 2_000)))
    dataset = data.hold_out(Dataset(whole.name, whole.classes, train, test, whole.origin), 1_000, CONFIG.seed)
    run = RunDir.create(folder, CONFIG.model_dump(mode="json"), environment(dataset.name))
    with Progress() as progress:
        summary = Trainer(CONFIG, dataset, run, progress).fit()
    figures = ("test_accuracy", "test_accuracy_tta", "test_loss", "validation_accuracy")
    return {name: getattr(summary, name) for name in figures} | {"losses": [line.loss for line in run.metrics().steps]}


def machine() -> str:
    """What the last bits of a loss depend on: torch, the processor with its caches, our operators, the threads."""
    processor = Path("/proc/cpuinfo")
    told = ("model name", "cpu family", "model\t", "stepping", "cache size", "flags")
    lines = processor.read_text().split("\n\n")[0].splitlines() if processor.exists() else [platform.processor()]
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    parts = [
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        *(line for line in lines if line.startswith(told)),
        *(cache.read_text().strip() for cache in caches),
        f"{fused.status()} {winograd.library.status()} {norm_gelu.library.status()}",
        f"{torch.get_num_threads()} threads",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps({"machine": machine()} | losses(Path(sys.argv[1]), Path(sys.argv[2]))))
