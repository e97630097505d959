"""Training speed of `quick` against processes and threads on this machine -> benchmarks/scaling.json.

    python benchmarks/scaling.py

Strong scaling: batches of 500 images, shared. Weak scaling: 250 images for each process. Each cell is a training of its
own, started as a user would start it; the cells take turns, and reported is the median over rounds of the median step.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dynconv.artifacts.environment import environment
from dynconv.artifacts.rundir import RunDir

OUTPUT = Path(__file__).with_name("scaling.json")
ROUNDS = 3
CELLS = [("strong", 1, 1), ("strong", 1, 2), ("strong", 2, 1), ("weak", 1, 1), ("weak", 2, 1)]
"""Kind, processes, threads of each."""


def speed(kind: str, processes: int, threads: int) -> float:
    """Images per second in training steps, at 24 pixels, in whatever precision `quick` takes here."""
    batch = str(500 if kind == "strong" else 250 * processes)
    words = ["train", "quick", "--data", "shapes", "--epochs", "2", "--image-sizes", "24", "--no-tta", "--no-report"]
    words += ["--batch-size", batch, "--micro-batch", batch, "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "--", "dynconv"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, *(launcher if processes > 1 else ["-m", "dynconv"]), *words, "--run", f"{folder}/run"],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True, capture_output=True,
        )  # fmt: skip
        steps = RunDir.open(Path(folder, "run")).metrics().steps
    return statistics.median(line.images_per_second for line in steps[len(steps) // 2 :])


def main() -> None:
    """Measures every cell in turns, and writes the report."""
    found: dict[tuple[str, int, int], list[float]] = {cell: [] for cell in CELLS}
    for _ in range(ROUNDS):
        for cell, speeds in found.items():
            speeds.append(speed(*cell))
    about = environment("shapes")
    cells = [
        {"kind": kind, "processes": processes, "threads": threads, "images_per_second": statistics.median(speeds)}
        for (kind, processes, threads), speeds in found.items()
    ]
    machine = {"processor": about.processor, "cores": about.cores, "git_commit": about.git_commit}
    OUTPUT.write_text(json.dumps({"machine": machine, "cells": cells}, indent=2) + "\n", encoding="utf-8")
    for cell in cells:
        print(cell)


if __name__ == "__main__":
    main()
