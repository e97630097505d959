"""What each augmentation costs -> benchmarks/augmentations.json, and a table on standard output.

    python benchmarks/augmentations.py

Microseconds of processor time per image at 32 pixels, in batches of 500 on one thread: the median over 40 rounds, in
which the augmentations take turns. What an epoch draws at its beginning is shown by itself.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dynconv.artifacts.environment import environment
from dynconv.data import shapes
from dynconv.data.augment import AugmentConfig, Batch, Epoch, begin
from dynconv.model.net import to_unit_range

OUTPUT = Path(__file__).with_name("augmentations.json")
IMAGES, ROUNDS, EPOCH = 500, 40, 50_000
EACH: dict[str, dict[str, Any]] = {
    "flip": {"flip": "random"},
    "translate": {"translate": 2},
    "random resized crop": {"crop_scale": (0.3, 1)},
    "brightness": {"brightness": 0.4},
    "contrast": {"contrast": 0.4},
    "saturation": {"saturation": 0.4},
    "hue": {"hue": 0.1},
    "all colour jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "TrivialAugment": {"policy": "trivialaugment"},
    "RandAugment, 2 operations": {"policy": "randaugment"},
    "cutout": {"cutout": 8},
    "random erasing": {"erase": 0.5},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call: other processes hardly change it."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measures, writes and prints."""
    torch.set_num_threads(1)
    split = shapes.generate(0, IMAGES, 10).train
    pixels = Batch(split.images, split.labels, torch.arange(IMAGES), 0)
    floats = replace(pixels, images=to_unit_range(split.images))

    def epoch(config: AugmentConfig) -> Callable[..., Batch]:
        return begin(config, Epoch(0, 0, EPOCH, 10, torch.Generator().manual_seed(0)))

    configs = {name: AugmentConfig(**({"flip": "none", "translate": 0} | changes)) for name, changes in EACH.items()}
    applied: dict[str, list[float]] = {name: [] for name in EACH}
    drawn: dict[str, list[float]] = {name: [] for name in EACH}
    for _ in range(ROUNDS):
        for name, config in configs.items():
            apply = epoch(config)
            drawn[name].append(seconds(lambda config=config: epoch(config)))
            applied[name].append(
                seconds(lambda apply=apply: (apply("pixels", pixels), apply("image", floats), apply("batch", floats)))
            )
    about = environment("shapes")
    report = {
        "images": IMAGES,
        "side": 32,
        "threads": 1,
        "microseconds_per_image": {name: round(1e6 * statistics.median(applied[name]) / IMAGES, 1) for name in EACH},
        "draws_microseconds_per_image": {name: round(1e6 * statistics.median(drawn[name]) / EPOCH, 2) for name in EACH},
        "machine": {"processor": about.processor, "torch": about.packages["torch"], "git_commit": about.git_commit},
    }
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name in EACH:
        print(f"| {name} | {report['microseconds_per_image'][name]} | {report['draws_microseconds_per_image'][name]} |")


if __name__ == "__main__":
    main()
