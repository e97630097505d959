"""What the rule for few images is worth: `quick` on 20 and on 100 CIFAR-10 images of each class -> few_images.json.

    python benchmarks/few_images.py --data PATH

Trains on the first images of each class and measures on 2,000 other training images, so the test set chooses nothing.
One seed of each configuration.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from dynconv import api, data
from dynconv.artifacts.environment import environment

OUTPUT = Path(__file__).with_name("few_images.json")
HELD_OUT = range(1000, 1200)  # images of each class on which accuracy is measured

CONFIGURATIONS: dict[str, tuple[int, dict[str, int]]] = {
    "100 a class, as fitted": (100, {}),
    "100 a class, as the preset says": (100, {"batch_size": 500, "micro_batch": 500, "epochs": 5}),
    "100 a class, batches of 500, as many epochs": (100, {"batch_size": 500, "micro_batch": 500, "epochs": 50}),
    "100 a class, batches of 50, half as many epochs": (100, {"batch_size": 50, "micro_batch": 50, "epochs": 25}),
    "20 a class, as fitted": (20, {}),
    "20 a class, batches of 50": (20, {"batch_size": 50, "micro_batch": 50, "epochs": 50}),
    "20 a class, batches of 200": (20, {"batch_size": 200, "micro_batch": 200, "epochs": 50}),
}
"""Images of each class, and the fields that are set."""


def write_subset(folder: Path, source: data.Split, count: int) -> Path:
    """A data set of the first `count` images of each class, with `HELD_OUT` as its test images."""
    labels, path = source.labels.numpy(), folder / f"{count}.npz"
    arrays = {}
    for name, chosen in (("train", range(count)), ("test", HELD_OUT)):
        index = np.concatenate([np.nonzero(labels == label)[0][list(chosen)] for label in range(10)])
        arrays[f"{name}-images"] = source.images[index].permute(0, 2, 3, 1).numpy()
        arrays[f"{name}-labels"] = labels[index]
    np.savez(path, **arrays)
    return path


def main() -> None:
    """Trains every configuration and writes their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="where CIFAR-10 is, as for dynconv train")
    train = data.load(parser.parse_args().data).train
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (title, (count, fields)) in enumerate(CONFIGURATIONS.items()):
            path = write_subset(folder, train, count)
            run = api.train("quick", data=path, run=folder / str(number), tta=False, **fields)
            config = {field: run.config[field] for field in ("batch_size", "epochs")}
            found[title] = config | {"accuracy": run.summary.test_accuracy}
            print(title, found[title], flush=True)
    about = environment("cifar10").tree()
    machine = {name: about[name] for name in ("processor", "cores", "git_commit")}
    OUTPUT.write_text(json.dumps({"accuracy": found, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
