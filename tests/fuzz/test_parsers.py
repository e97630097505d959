"""Every parser of bytes from outside, given damaged copies of good files: it succeeds, or raises our own error.

`make fuzz CASES=100000` runs more of them. The cases are the same each time; a failing one is named by its number.
"""

import os
import random
import resource
import sys
import unicodedata
from pathlib import Path

import pytest
from mutate import mutated
from official import PER_FILE
from targets import Target, artifact_targets, collection_targets, data_targets, official_targets
from tiny import train

from dynconv.data import cifar10, cifar100, shapes
from dynconv.errors import DynconvError

CASES = int(os.environ.get("DYNCONV_FUZZ_CASES", "2000"))
"""Number of cases, spread evenly over the targets."""
GROWTH = 1 << 30
"""Bytes by which the memory of the process may grow."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "data").mkdir()
    run, _ = train(place / "run", shapes.generate(0, 600, 200), epochs=1, tta=False)
    data = data_targets(place / "data") | collection_targets(place / "data") | official_targets(place / "official")
    return data | artifact_targets(place, run)


NAMES = (
    "pickle", "python batches", "binary batches", "arrow", "parquet", "tar", "tar.gz", "gzip", "npy", "npz",
    "array in npz", "image", "image in a folder", "zip of class folders", "tar of class folders", "csv", "tsv", "jsonl",
    "cifar-100 python", "cifar-100 binary", "idx images", "idx labels", "idx gzipped", "svhn", "array in svhn",
    "stl10 images", "stl10 labels", "configuration", "weights", "metadata of weights", "state",
    "pickle in state", "config.yaml", "environment.json", "metrics.jsonl", "summary.json", "predictions.npz",
)  # fmt: skip


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def printable(text: str) -> bool:
    """Whether a terminal shows it as it is: also no-break and other spaces, which Python calls unprintable."""
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in text)


@pytest.mark.filterwarnings("default")  # Pillow's and NumPy's, about what is damaged
@pytest.mark.parametrize("name", NAMES)
def test_only_success_or_our_own_error(
    targets: dict[str, Target], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cifar10, "_PER_FILE", PER_FILE)
    monkeypatch.setattr(cifar100, "_SPLITS", {"train": 20, "test": 10})
    monkeypatch.chdir(tmp_path)
    assert set(targets) == set(NAMES)
    target, before, read, unprintable = targets[name], peak_memory(), 0, 0
    for seed in target.seeds:
        target.read(seed)
    for number in range(-(-CASES // len(NAMES))):
        data = mutated(target.seeds, target.tokens, random.Random(f"{name} {number}"))
        try:
            target.read(data)
            read += 1
        except DynconvError as error:
            unprintable += not printable(str(error))
        except Exception as error:
            error.add_note(f"{name}, case {number}: {data[:300]!r}")
            raise
    print(f"{name}: {read} of {number + 1} damaged files are read all the same")
    assert not unprintable and peak_memory() - before < GROWTH and not list(tmp_path.iterdir())
