"""A small training that several processes, started by torchrun, share."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import WORDS

from dynconv.artifacts.rundir import RunDir

TRAINING = [
    "train", "quick", *WORDS, "--precision", "fp32", "--device", "cpu", "--no-report", "--epochs", "4",
    "--batch-size", "500", "--micro-batch", "250", "--model.experts", "1", "3", "--augment.cutout", "4",
    "--optim.ema", "0.5", "--optim.name", "sgd", "--optim.lr", "0.05",
]  # fmt: skip
"""With whatever could depend on the number of processes: micro-batches, an expert without choice, the mean colour of a
batch, an average of the weights. With Muon, whose updates have one size however small the gradient is, rounding grows
faster.
"""


@contextmanager
def torchrun(processes: int, *words: str, options: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options, "-m"]
    with subprocess.Popen(
        [*launcher, "--", "dynconv", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def output_of(process: subprocess.Popen[str]) -> str:
    return process.communicate()[0]


def losses(run: Path) -> list[float]:
    return [line.loss for line in RunDir.open(run).metrics().steps]


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        file = run / "metrics.jsonl"
        if file.exists() and file.read_text().count('"kind": "step"') >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"ended before step {count}: {output_of(process)}")
