"""Twenty images of each of three classes, from weights of seven others and from scratch -> benchmarks/transfer.json.

    python benchmarks/transfer.py --data PATH

`quick` is trained once on seven classes of CIFAR-10. Then networks for the three others are trained on 20 images of
each, drawn by the seed, and tested on all 3,000 test images of those classes. Nothing was tuned: 60 epochs of a batch,
with the preset's learning rates, a tenth of them for the blocks where they start from weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dynconv import data
from dynconv.artifacts.environment import environment
from dynconv.data import Dataset, Split
from dynconv.training.launch import Launch, start
from dynconv.training.presets import PRESETS, override
from dynconv.training.progress import Progress

OUTPUT = Path(__file__).with_name("transfer.json")
NEW = ("cat", "horse", "truck")
IMAGES = 20
SMALL = {"epochs": 60, "batch_size": 60, "micro_batch": 60, "image_sizes": [32], "tta": False}
SLOWLY = {"optim": {"backbone_rate": 0.1}}


def of_classes(dataset: Dataset, names: tuple[str, ...], images: int | None = None, seed: int = 0) -> Dataset:
    """Only these classes; with `images`, that many of each for training, drawn by the seed."""
    numbers = [dataset.classes.index(name) for name in names]
    drawn = torch.Generator().manual_seed(seed)

    def taken(split: Split, most: int | None) -> Split:
        chosen = []
        for number in numbers:
            members = (split.labels == number).nonzero()[:, 0]
            chosen.append(members[torch.randperm(len(members), generator=drawn)[:most]])
        labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(each) for each in chosen]))
        return Split(split.images[torch.cat(chosen)], labels)

    return replace(
        dataset,
        name="cifar10-classes",
        classes=names,
        train=taken(dataset.train, images),
        test=taken(dataset.test, None),
    )


def main() -> None:
    """Trains all of it, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    whole = data.load(arguments.data)
    old = tuple(name for name in whole.classes if name not in NEW)

    with tempfile.TemporaryDirectory() as folder, Progress(epoch_lines=False) as progress:

        def accuracy(name: str, dataset: Dataset, fields: dict[str, Any]) -> float:
            config = override(PRESETS["quick"](), fields)
            return start(config, Launch(run=Path(folder, name)), progress, dataset=dataset).summary.test_accuracy

        first = accuracy("seven", of_classes(whole, old), {"tta": False})
        print(f"seven classes: {first:.2%}", flush=True)
        ways: dict[str, dict[str, Any]] = {
            "from scratch": {},
            "from weights": {"init": f"{folder}/seven", **SLOWLY},
            "from weights, blocks frozen": {
                "init": f"{folder}/seven", "freeze": [f"block{number}" for number in range(1, 7)]
            },
        }  # fmt: skip
        found: dict[str, list[float]] = {name: [] for name in ways}
        for seed in range(arguments.seeds):
            few = of_classes(whole, NEW, IMAGES, seed)
            for name, fields in ways.items():
                found[name].append(accuracy(f"{name}-{seed}", few, SMALL | fields | {"seed": seed}))
                print(f"seed {seed}, {name}: {found[name][-1]:.2%}", flush=True)
    about = environment("cifar10")
    report = {
        "command": "python benchmarks/transfer.py --data PATH",
        "machine": {"processor": about.processor, "cores": about.cores, "git_commit": about.git_commit},
        "old_classes": old,
        "new_classes": NEW,
        "images_of_each": IMAGES,
        "accuracy_on_old_classes": first,
        "accuracy": {
            name: {
                "mean": statistics.mean(each),
                "sd": statistics.stdev(each) if len(each) > 1 else None,
                "n": len(each),
                "runs": each,
            }
            for name, each in found.items()
        },
    }
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
