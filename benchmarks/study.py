"""Trains the arms of a study over several seeds, and keeps what supports its figures.

    python benchmarks/study.py train quick-controls --seeds 8 --data PATH --runs FOLDER
    python benchmarks/study.py collect quick-controls --data PATH --runs FOLDER

A study is benchmarks/studies/NAME.yaml: a preset, fields common to all arms, and the arms, each with the fields in
which it differs and the arm that it is compared with; or, to screen many factors at once, `factors`, each with the
fields of its other level (see `screening`). `train` runs `dynconv train` for every arm and seed, all arms of a seed
before the next seed, so that comparisons are paired from the start. It skips what has been collected, continues what
was interrupted, and refuses a checkout with uncommitted changes. `collect` adds the finished runs to
benchmarks/studies/NAME.jsonl, one line per run: configuration, records of the epochs, summary, environment, and what
was measured on the trained network. No weights.

Two runs of one thread each are faster than two after one another with two threads, and another program on the machine
disturbs them less; they make the times of a run mean nothing. Times are measured by benchmarks/presets.py and
`dynconv bench step`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import normalize

from dynconv import data
from dynconv.artifacts.commit import require_committed
from dynconv.artifacts.records import Record
from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError
from dynconv.inference import explain
from dynconv.inference.predictor import Predictor
from dynconv.training.launch import config_of
from dynconv.training.presets import merge

STUDIES = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class Arm:
    """One configuration of a study.

    Attributes:
        about: what it is, for people.
        fields: those of its configuration that differ from the study's.
        reference: the arm that it is compared with.
        mistake: the one that is made in it, of benchmarks/mistakes.py; empty for none.
        mirrored: fields at odd seeds, where they are others.
    """

    about: str
    fields: dict[str, Any]
    reference: str = ""
    mistake: str = ""
    mirrored: dict[str, Any] | None = None


def signs(arm: int) -> list[bool]:
    """The levels of up to 15 factors in one of 16 arms: true where the number of common bits of two numbers is odd.

    Over the arms, each two factors have every pair of levels equally often.
    """
    return [(arm & factor).bit_count() % 2 == 1 for factor in range(1, 16)]


def screening(factors: dict[str, dict[str, Any]]) -> dict[str, Arm]:
    """Sixteen arms, in each of which half of the factors, another half each time, are at their other level.

    So every run says something about every factor. At odd seeds all factors of an arm change levels: then no pair of
    factors that work together is mistaken for the effect of a third (a folded-over fractional factorial of resolution
    IV; Box, Hunter and Hunter, Statistics for Experimenters, chapter 6).
    """
    arms = {}
    for number in range(16):
        levels: list[dict[str, Any]] = [{}, {}]
        for fields, other in zip(factors.values(), signs(number), strict=False):
            side = 0 if other else 1
            levels[side] = merge(levels[side], fields)
        about = ", ".join(name for name, other in zip(factors, signs(number), strict=False) if other)
        arms[f"arm-{number:02d}"] = Arm(about or "none", levels[0], mirrored=levels[1])
    return arms


class Study:
    """A study's arms and what has been collected of them.

    Attributes:
        arms: by name.
        factors: those of a study that screens, by name; else none.
        curves: by label, the arms that figures.py joins in a picture of accuracy against multiply-adds.
    """

    def __init__(self, name: str, runs: Path = Path("runs")) -> None:
        self.name = name
        tree = yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
        self.preset: str = tree["preset"]
        self.common: dict[str, Any] = tree.get("common", {})
        self.curves: dict[str, list[str]] = tree.get("curves", {})
        self.factors: dict[str, dict[str, Any]] = tree.get("factors", {})
        self.arms = screening(self.factors)
        if not self.factors:
            self.arms = {arm: Arm(**{"reference": tree["reference"], **of}) for arm, of in tree["arms"].items()}
        self.runs = runs / name
        self.collected = STUDIES / f"{name}.jsonl"

    def lines(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The collected runs by arm and seed."""
        if not self.collected.exists():
            return {}
        found = [json.loads(line) for line in self.collected.read_text().splitlines()]
        return {(line["arm"], line["seed"]): line for line in found}

    def run(self, arm: str, seed: int) -> Path:
        """The directory of a run."""
        return self.runs / f"{arm}-seed{seed}"

    def write_config(self, arm: str, seed: int) -> Path:
        """The fields of an arm as a file for `dynconv train --config`."""
        path = self.runs / f"{arm}-seed{seed}.yaml"
        own, mirrored = self.arms[arm].fields, self.arms[arm].mirrored
        if mirrored is not None and seed % 2:
            own = mirrored
        fields = {"preset": self.preset, **merge(self.common, own)}
        path.write_text(yaml.safe_dump(fields, sort_keys=False))
        return path


def train(study: Study, arm: str, seed: int, source: str, threads: int) -> None:
    """One run in a process of its own, continued if it was interrupted."""
    run = study.run(arm, seed)
    if (run / "summary.json").exists() and json.loads((run / "summary.json").read_text())["finished"]:
        return
    mistake = study.arms[arm].mistake
    program = [str(Path(__file__).with_name("mistakes.py")), mistake] if mistake else ["-m", "dynconv"]
    words = [sys.executable, *program, "train", "--no-report", "--data", source]
    if (run / "config.yaml").exists():
        words += ["--resume", str(run)]
    else:
        words += ["--config", str(study.write_config(arm, seed)), "--seed", str(seed), "--run", str(run)]
    log = run.with_name(f"{run.name}.log")
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("a") as stream:
        done = subprocess.run(words, stdout=stream, stderr=stream, env=environ, check=False)
    print(f"{run.name}: {f'failed, see {log}' if done.returncode else 'done'}", flush=True)


def cosines(weight_KOCHW: torch.Tensor) -> float | None:
    """Mean cosine similarity between two different experts; None for a single one."""
    experts = len(weight_KOCHW)
    if experts == 1:
        return None
    unit = normalize(weight_KOCHW.flatten(1), dim=1)
    return float(((unit @ unit.T).sum() - experts) / (experts * (experts - 1)))


def measured(run: RunDir, source: str, *, ablated: bool) -> dict[str, Any]:
    """On the trained network: similarity of each block's experts and, if `ablated`, what is lost without the routing.

    The losses are points of accuracy on the hold-out, with the mean mixture for every image, and with that of another.
    """
    predictor = Predictor.load(run.path)
    banks = [block.conv.weight.detach() for block in predictor.net.backbone]
    found: dict[str, Any] = {"cosines": [cosines(bank) for bank in banks]}
    config = config_of(run)
    if ablated and config.holdout and max(config.model.experts) > 1:
        held = data.hold_out(data.load(source), config.holdout, config.seed).validation
        assert held is not None
        weights = explain.routing_weights(predictor, held.images)
        _, ablations = explain.ablate(predictor, held.images, held.labels, weights)
        found["lost_with"] = {name: ablations[name].lost for name in ("mean", "shuffled")}
    return found


def without_paths(record: Record) -> dict[str, Any]:
    """What a record says, but for where this machine keeps its files."""
    return {name: value for name, value in record.tree().items() if name not in ("command", "data_source")}


def collect(study: Study, source: str) -> None:
    """Adds the finished runs to the study's file."""
    lines = study.lines()
    for arm, seed in product(study.arms, range(1000)):
        if (arm, seed) in lines or not (study.run(arm, seed) / "summary.json").exists():
            continue
        run = RunDir.open(study.run(arm, seed))
        summary = run.summary()
        if summary is None or not summary.finished:
            continue
        lines[arm, seed] = {
            "arm": arm,
            "seed": seed,
            "config": run.config.tree(),
            "summary": without_paths(summary),
            "epochs": [line.tree() for line in run.metrics().epochs],
            "measured": measured(run, source, ablated=not study.factors),
            "environment": without_paths(run.environment),
        }
    order = sorted(lines, key=lambda key: (list(study.arms).index(key[0]), key[1]))
    study.collected.write_text("".join(json.dumps(lines[key]) + "\n" for key in order))
    print(f"{study.collected}: {len(lines)} runs")


def main() -> None:
    """Trains or collects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "collect"])
    parser.add_argument("study", help="name of a file in benchmarks/studies, without .yaml")
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds, from 0")
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads per run")
    arguments = parser.parse_args()

    study = Study(arguments.study, arguments.runs)
    if arguments.action == "collect":
        collect(study, arguments.data)
        return
    try:
        require_committed()
    except DynconvError as error:
        sys.exit(str(error))
    study.runs.mkdir(parents=True, exist_ok=True)
    wanted = [
        (arm, seed) for seed, arm in product(range(arguments.seeds), study.arms) if (arm, seed) not in study.lines()
    ]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda key: train(study, *key, arguments.data, arguments.threads), wanted))


if __name__ == "__main__":
    main()
