"""Accuracy, time and memory of a preset over several seeds -> benchmarks/PRESET.json.

    python benchmarks/presets.py quick --seeds 5 --data PATH

Each seed is one `dynconv train` in a process of its own, timed as a whole, with nothing beside it. Runs that have ended
are taken as they are, so the script can be interrupted and started again. The figures are those of the last epoch:
nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FIGURES = ("test_accuracy", "test_accuracy_tta", "process_seconds", "train_seconds", "peak_memory_bytes")
MACHINE = ("processor", "instruction_sets", "cores", "threads", "gpus", "system", "python", "packages")


def train(preset: str, seed: int, data: str, runs: Path) -> dict[str, Any]:
    """One run's summary, with the seconds of the whole process. Trains unless that has been done."""
    run = runs / f"{preset}-seed{seed}"
    timing = runs / f"{preset}-seed{seed}.seconds"
    if not timing.exists():
        words = [sys.executable, "-m", "dynconv", "train", preset]
        words += ["--seed", str(seed), "--data", data, "--run", str(run)]
        began = time.monotonic()
        subprocess.run(words, check=True)
        timing.write_text(f"{time.monotonic() - began:.1f}")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary | {"process_seconds": float(timing.read_text())}


def config_of(run: Path) -> dict[str, Any]:
    """All of a run's configuration but its seed, place and data."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return {name: value for name, value in config.items() if name not in ("seed", "run", "data")}


def spread(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean, sample standard deviation (None of a single run) and number; None where a figure was not taken."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.mean(numbers), "sd": sd, "n": len(numbers)}


def main() -> None:
    """Trains what is not trained yet and writes the report, anew after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are written")
    arguments = parser.parse_args()

    arguments.runs.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        results.append(train(arguments.preset, seed, arguments.data, arguments.runs))
        environment = json.loads((arguments.runs / f"{arguments.preset}-seed{seed}" / "environment.json").read_text())
        report = {
            "command": f"python benchmarks/presets.py {arguments.preset} --seeds {arguments.seeds} --data PATH",
            "data": results[0]["data"],
            "machine": {name: environment[name] for name in MACHINE},
            "git_commit": environment["git_commit"],
            "date": environment["started"][:10],
            "config": config_of(arguments.runs / f"{arguments.preset}-seed0"),
            **{name: results[0][name] for name in ("parameters", "multiply_adds", "device", "precision", "epochs")},
            **{name: spread([result[name] for result in results]) for name in FIGURES},
            "runs": [{name: result[name] for name in ("seed", *FIGURES)} for result in results],
        }
        (HERE / f"{arguments.preset}.json").write_text(json.dumps(report, indent=2) + "\n")
    for name in FIGURES:
        print(name, spread([result[name] for result in results]))


if __name__ == "__main__":
    main()
