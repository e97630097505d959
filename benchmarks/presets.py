"""Accuracy, time and memory of a preset over several seeds -> benchmarks/PRESET.json.

    python benchmarks/presets.py quick --seeds 5 --data PATH

Each seed is one `dynconv train` in a process of its own, timed as a whole, with nothing running beside it. Finished
runs are kept, so the script can be interrupted and started again. The figures are those of the last epoch: nothing is
selected by them. All runs must come from one commit, and the checkout must have no uncommitted changes. A run that was
trained by `dynconv train` beside other work, and perhaps resumed, counts with --untimed: without its times.
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

from dynconv.artifacts.commit import require_committed
from dynconv.errors import DynconvError

HERE = Path(__file__).parent
FIGURES = ("test_accuracy", "test_accuracy_tta", "process_seconds", "train_seconds", "peak_memory_bytes")
MACHINE = ("processor", "instruction_sets", "cores", "threads", "gpus", "system", "python", "packages")


def timing_of(run: Path) -> Path:
    """Where the seconds of a run's whole process are kept once it has finished."""
    return run.with_name(f"{run.name}.seconds")


def train(preset: str, seed: int, data: str, run: Path, untimed: bool) -> dict[str, Any]:
    """One run's summary, with the seconds of the whole process. Trains unless the run has finished."""
    timing = timing_of(run)
    if untimed:
        found: dict[str, Any] = json.loads((run / "summary.json").read_text())
        return found | {"process_seconds": None, "train_seconds": None}
    if not timing.exists():
        words = [sys.executable, "-m", "dynconv", "train", preset]
        words += ["--seed", str(seed), "--data", data, "--run", str(run)]
        began = time.monotonic()
        subprocess.run(words, check=True)
        timing.write_text(f"{time.monotonic() - began:.1f}")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary | {"process_seconds": float(timing.read_text())}


def config_of(run: Path) -> dict[str, Any]:
    """A run's hyper-parameters, without its seed."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return {name: value for name, value in config.items() if name not in ("format", "seed")}


def environment_of(runs: list[Path]) -> dict[str, Any]:
    """The environment of the first of the runs, all of one commit. Exits where they are not."""
    found: list[dict[str, Any]] = [json.loads((run / "environment.json").read_text()) for run in runs]
    commits = {about["git_commit"] for about in found}
    if len(commits) > 1:
        sys.exit(
            f"the runs come from different commits ({', '.join(map(str, commits))}); train them again: --runs FOLDER"
        )
    return found[0]


def spread(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean, sample standard deviation (None for a single run) and number of runs; None if a figure is missing."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.mean(numbers), "sd": sd, "n": len(numbers)}


def main() -> None:
    """Trains what has not been trained yet, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--untimed", action="store_true", help="take finished runs as they are, without their times")
    parser.add_argument(
        "--allow-uncommitted", action="store_true", help="measure although no commit describes the code"
    )
    arguments = parser.parse_args()

    output = HERE / f"{arguments.preset}.json"
    runs = [arguments.runs / f"{arguments.preset}-seed{seed}" for seed in range(arguments.seeds)]
    all_trained = arguments.untimed or all(timing_of(run).exists() for run in runs)
    if not arguments.allow_uncommitted:
        try:
            require_committed(*([output] if all_trained else []))  # a run's record would call the commit changed
        except DynconvError as error:
            sys.exit(str(error))
    arguments.runs.mkdir(parents=True, exist_ok=True)
    results = [train(arguments.preset, seed, arguments.data, run, arguments.untimed) for seed, run in enumerate(runs)]
    environment = environment_of(runs)
    report = {
        "command": f"python benchmarks/presets.py {arguments.preset} --seeds {arguments.seeds} --data PATH"
        + (" --untimed" if arguments.untimed else ""),
        "data": results[0]["data"],
        "machine": {name: environment[name] for name in MACHINE},
        "git_commit": environment["git_commit"],
        "date": environment["started"][:10],
        "config": config_of(runs[0]),
        **{name: results[0][name] for name in ("parameters", "multiply_adds", "device", "precision", "epochs")},
        **{name: spread([result[name] for result in results]) for name in FIGURES},
        "runs": [{name: result[name] for name in ("seed", *FIGURES)} for result in results],
    }
    output.write_text(json.dumps(report, indent=2) + "\n")
    for name in FIGURES:
        print(name, spread([result[name] for result in results]))


if __name__ == "__main__":
    main()
