"""A sweep from its first word to its page: the study opened, the trials trained, the result written."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileOpenLock
from rich.console import Console

from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.machine import pick_device
from dynconv.sweep.config import Sweep
from dynconv.sweep.page import write_page
from dynconv.sweep.result import Result, Row, values_text
from dynconv.sweep.slots import read_slots
from dynconv.sweep.space import sampler_for
from dynconv.sweep.storage import open_study, place, storage_errors
from dynconv.sweep.trial import Bench, Interrupted
from dynconv.sweep.worker import Worker
from dynconv.training.launch import Launch, fitted, load
from dynconv.validation import flat

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A sweep that has ended, or was interrupted and has no page then."""

    result: Result
    page: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.page is None


def run_sweep(sweep: Sweep, folder: Path, url: str | None, launch: Launch, console: Console) -> Outcome:
    """Works on a sweep until all of its trials are done, by this process or others that run it too.

    Continues a sweep that was interrupted. Ctrl-C ends it after the current step.

    Args:
        folder: directory of the sweep: the runs of this machine and the result.
        url: of the database that records the trials; by default a journal file in the folder.

    Raises:
        DynconvError: no such data or device, a folder or storage that cannot be used, or another sweep in it.
    """
    pick_device(launch.device)

    @lru_cache(maxsize=3)  # three seeds of CIFAR-10 take 0.5 GB
    def dataset(seed: int) -> Dataset:
        return load(sweep.base.model_copy(update={"seed": seed}), launch.data)

    images = dataset(0)
    chosen = [*flat(sweep.config.fields), *(axis.field for axis in sweep.axes)]
    sweep = replace(sweep, base=fitted(sweep.base, images, chosen))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DynconvError(f"{folder}: cannot be created ({error.strerror}); choose another --output") from error
    data = {"name": images.name, "training_images": len(images.train.labels), "classes": len(images.classes)}
    definition = json.loads(json.dumps(sweep.tree() | {"data": data}))
    study = open_study(folder, url, definition, _pruner(sweep), maximise=sweep.maximise)

    def result() -> Result:
        rows = (Row.of(sweep, slot) for slot in read_slots(study, sweep.config.trials))
        return Result(sweep, tuple(rows), images.name)

    with storage_errors(place(folder, url), "; the same command continues when it can"):
        worker = Worker(
            study, sweep.config.trials, lambda number: sampler_for(sweep.config.sampler, number, sweep.axes, sweep.base)
        )
        bench = Bench(sweep, study, worker, dataset, folder, launch, console)
        interrupted = False
        try:
            for claim in worker.claims():
                bench.run(claim)
                _say(result(), claim.slot)
                result().tidy(folder)
        except (Interrupted, KeyboardInterrupt):
            interrupted = True
        return _written(result(), study, folder, page=not interrupted)


def _written(result: Result, study: optuna.Study, folder: Path, page: bool) -> Outcome:
    """Writes the result; one worker at a time, for those of a shared folder end at the same moment."""
    lock = JournalFileOpenLock(str((folder / "result").resolve()))
    lock.acquire()
    try:
        result.write(folder)
        return Outcome(result, write_page(result, study, folder) if page else None)
    finally:
        lock.release()


def _say(result: Result, number: int) -> None:
    row, best = result.rows[number], next(iter(result.ranked), None)
    score = "" if row.score is None else f" {result.score_text(row.score)}"
    note = f" ({row.note})" if row.note else ""
    leading = f"; best: {result.score_text(best.score)}, trial {best.number}" if best else ""
    logger.info("trial %d: %s%s%s  %s%s", number, row.state, score, note, values_text(row.values), leading)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    if sweep.config.pruner == "median":
        return optuna.pruners.MedianPruner()
    if sweep.config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=sweep.base.epochs)
    return optuna.pruners.NopPruner()
