"""One configuration trained with several seeds: each run begun, continued, or left as it is if it has finished."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from dynconv.artifacts.records import Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.machine import pick_device
from dynconv.training.config import TrainConfig
from dynconv.training.distributed import ALONE, Group
from dynconv.training.launch import Launch, config_of, fitted, load, resume, start
from dynconv.training.memory import fitting_micro_batch
from dynconv.training.progress import Progress
from dynconv.training.stopping import require_held_out_before_download
from dynconv.validation import flat, shown

_MOST = 10_000  # seeds of one command


def seed_numbers(text: str | None) -> list[int]:
    """The seeds that a text names: "0-4", or "0,3,7", or both; none without one. Raises ValueError."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        first, dash, last = part.partition("-")
        named = first.isdecimal() and (last.isdecimal() or not dash)
        if not named or not 0 <= int(last or first) - int(first) <= _MOST:
            raise ValueError("must be seeds such as 0-4 or 0,3,7")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found):
        raise ValueError("must be different seeds, as 0-4 or 0,3,7")
    return found


def run_of(folder: Path, seed: int) -> Path:
    """The run directory of a seed."""
    return folder / f"seed{seed}"


def train_seeds(
    config: TrainConfig, launch: Launch, folder: Path, seeds: Sequence[int], console: Console,
    group: Group = ALONE, chosen: Collection[str] | None = None,
) -> Iterator[Summary]:  # fmt: skip
    """Yields the summary of each seed's run, in turn, once it has ended; ends after one that was stopped.

    Args:
        chosen: as for `launch.start`.

    Raises:
        DynconvError: a run in `folder` is of another configuration, or anything that training raises.
    """
    group.each(lambda: require_held_out_before_download(config, launch.data))
    dataset = group.first_on_each_machine(lambda: load(config, launch.data))
    config = group.each(partial(fitted, config, dataset, chosen))
    if config.micro_batch == "auto":  # one number for all, which is what batch normalisation averages over
        config = group.share(partial(_with_micro_batch, config, launch, dataset, folder, seeds, group.size))
    for seed in seeds:
        path, own = run_of(folder, seed), config.model_copy(update={"seed": seed})
        begun, summary = group.share(partial(_found, path, own))
        if summary is None or not summary.finished:
            where = launch.model_copy(update={"run": None if begun else path})
            with Progress(console) as progress:
                if begun:
                    summary = resume(path, where, progress, group=group).summary
                else:
                    summary = start(own, where, progress, group=group).summary
        yield summary
        if not summary.finished:
            return


def _with_micro_batch(
    config: TrainConfig, launch: Launch, dataset: Dataset, folder: Path, seeds: Sequence[int], processes: int
) -> TrainConfig:
    """With the number of a seed that has begun, or else the one that fits into memory."""
    for seed in seeds:
        if (run_of(folder, seed) / "config.yaml").exists():
            theirs = config_of(RunDir.open(run_of(folder, seed)))
            return config.model_copy(update={"micro_batch": theirs.micro_batch})
    return fitting_micro_batch(config, dataset, pick_device(launch.device), processes)


def _found(path: Path, config: TrainConfig) -> tuple[bool, Summary | None]:
    """Whether a run has begun there, and its summary. Raises DynconvError where it is of another configuration."""
    if not (path / "config.yaml").exists():
        return False, None
    run = RunDir.open(path)
    theirs, ours = (flat(each.model_dump(mode="json")) for each in (config_of(run), config))
    for name, value in ours.items():
        if theirs[name] != value:
            raise DynconvError(f"{path}: has {name} {shown(theirs[name])}, not {shown(value)}; choose another --run")
    return True, run.summary()
