"""One trial: its values drawn, its runs trained, its score told to the study."""

from __future__ import annotations

import logging
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from rich.console import Console

from dynconv.artifacts.records import EpochLine, Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import is_saved
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.machine import pick_device
from dynconv.model.describe import headline
from dynconv.sweep.config import Sweep
from dynconv.sweep.worker import PROBLEM, Claim, Worker, alive
from dynconv.training.config import TrainConfig
from dynconv.training.cost import training_flop
from dynconv.training.launch import Launch, require_trainable, resume, start
from dynconv.training.memory import OutOfMemoryError
from dynconv.training.progress import Progress
from dynconv.training.timing import equal_time
from dynconv.training.trainer import INTERRUPT

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """Ctrl-C has ended a trial; any worker can continue it."""


class Bench:
    """What trains the trials of a sweep in its folder.

    Args:
        dataset: the images for a seed, the hold-out taken out.
    """

    def __init__(
        self, sweep: Sweep, study: Study, worker: Worker, dataset: Callable[[int], Dataset],
        folder: Path, launch: Launch, console: Console,
    ) -> None:  # fmt: skip
        self._sweep, self._study, self._worker, self._dataset = sweep, study, worker, dataset
        self._folder, self._launch, self._console = folder, launch, console

    def run(self, claim: Claim) -> None:
        """Trains a trial and tells the study. If another worker has taken the trial meanwhile, drops it.

        Raises:
            Interrupted: by Ctrl-C.
            DynconvError: a file cannot be written, as on a full disk.
        """
        try:
            with alive(claim.trial):
                self._run(claim)
        except (Interrupted, KeyboardInterrupt):
            self._worker.release(claim)
            raise Interrupted from None
        except UpdateFinishedTrialError:
            logger.warning("trial %d: another worker has taken it over", claim.slot)
        except DynconvError:
            if self._worker.holds(claim):
                self._worker.release(claim)
                raise
            logger.warning("trial %d: another worker has taken it over", claim.slot)

    def _run(self, claim: Claim) -> None:
        drawn = {axis.field: axis.suggest(claim.trial) for axis in self._sweep.axes}
        values = {axis.field: axis.value(drawn[axis.field]) for axis in self._sweep.axes}
        try:
            config = self._configure(claim, values)
            ended = [self._train(claim, config.model_copy(update={"seed": 0}), judge=True)]
            for seed in range(1, self._sweep.config.seeds):
                if not ended[-1][1].finished:
                    break
                ended.append(self._train(claim, config.model_copy(update={"seed": seed}), judge=False))
        except (_MisfitError, OutOfMemoryError) as error:
            text = "out of memory" if isinstance(error, OutOfMemoryError) else str(error)
            claim.trial.set_user_attr(PROBLEM, text)
            self._study.tell(claim.trial, state=TrialState.PRUNED)
            return
        self._record(claim, config, ended)

    def _configure(self, claim: Claim, values: dict[str, Any]) -> TrainConfig:
        about, dataset = claim.trial.user_attrs, self._dataset(0)
        try:
            config = self._sweep.trial_config(values, epochs=about.get("epochs"))
            headline(config.model, len(dataset.classes), dataset.test.images.shape[-1], config.image_sizes)
            require_trainable(config, dataset, pick_device(self._launch.device))
        except DynconvError as error:
            raise _MisfitError(str(error)) from None
        if self._sweep.config.equal_time and "epochs" not in about:
            epochs, ratio = equal_time(
                self._sweep.base, config, dataset, device=self._launch.device, compile=self._launch.compile
            )
            claim.trial.set_user_attr("relative_time", ratio)
            config = config.model_copy(update={"epochs": epochs})
        claim.trial.set_user_attr("epochs", config.epochs)
        return config

    def _train(self, claim: Claim, config: TrainConfig, judge: bool) -> tuple[RunDir, Summary]:
        """One run, continued if an earlier attempt at the trial has begun it."""
        path = self._take_over(claim, config.seed)
        dataset, launch = self._dataset(config.seed), self._launch.model_copy(update={"run": path})
        hopeless = _Judge(self._sweep, claim, config, path) if judge else None
        with Progress(self._console, epoch_lines=False) as progress:
            if not is_saved(path / "state.pt"):
                outcome = start(config, launch, progress, dataset=dataset, hopeless=hopeless)
            else:
                run = RunDir.open(path)
                summary = run.summary()
                if summary and summary.stopped_by != INTERRUPT:  # the worker was killed between two runs
                    return run, summary
                outcome = resume(path, launch, progress, dataset=dataset, hopeless=hopeless)
        if outcome.summary.stopped_by == INTERRUPT:
            raise Interrupted
        return outcome.run, outcome.summary

    def _take_over(self, claim: Claim, seed: int) -> Path:
        """The directory of the run. What an earlier attempt has left is renamed.

        So a worker that counted as lost and is not after all finds its directory gone, and disturbs nothing.
        """
        path = self._path(claim, seed, claim.attempt)
        for attempt in reversed(range(claim.attempt)):
            earlier = self._path(claim, seed, attempt)
            if earlier.exists():
                earlier.rename(path)
                (path / "lock").unlink(missing_ok=True)  # of that worker, which no longer counts
                break
        if path.exists() and not is_saved(path / "state.pt"):  # killed before there was anything to continue
            shutil.rmtree(path)
        return path

    def _path(self, claim: Claim, seed: int, attempt: int) -> Path:
        return self._folder / f"{run_name(claim.slot, seed)}{f'-attempt{attempt + 1}' if attempt else ''}"

    def _record(self, claim: Claim, config: TrainConfig, ended: list[tuple[RunDir, Summary]]) -> None:
        """What the trial cost, per run, and how it ended."""
        dataset, trial = self._dataset(0), claim.trial
        images, classes = len(dataset.train.labels), len(dataset.classes)
        flop = [training_flop(config, images, classes, summary.epochs) for _, summary in ended]
        scores = [self._score(run.metrics().epochs, summary.selected_epoch) for run, summary in ended]
        about = {
            "runs": [run.path.name for run, _ in ended],
            "scores": scores,
            "epochs_done": ended[-1][1].epochs,
            "stopped_by": ended[-1][1].stopped_by,
            "train_seconds": statistics.mean(summary.train_seconds for _, summary in ended),
            "training_flop": statistics.mean(flop),
            "parameters": ended[0][1].parameters,
        }
        for name, value in about.items():
            trial.set_user_attr(name, value)
        if not ended[-1][1].finished:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, statistics.mean(score for score in scores if score is not None))

    def _score(self, epochs: list[EpochLine], selected: int | None) -> float | None:
        """Of the epoch whose weights were kept."""
        kept = [line for line in epochs if selected is None or line.epoch == selected]
        return _score(self._sweep, kept[-1]) if kept else None


class _MisfitError(Exception):
    """Values that do not fit together, or a network that does not fit into memory."""


class _Judge:
    """Reports each epoch of a run to the study, and asks its pruner.

    The report's step is the share of the training that is done, in epochs of the base configuration: at the same step
    the learning rates of all trials have decayed as far, however many epochs they have.
    """

    def __init__(self, sweep: Sweep, claim: Claim, config: TrainConfig, path: Path) -> None:
        self._sweep, self._trial, self._epochs, self._path = sweep, claim.trial, config.epochs, path
        self._step = 0

    def __call__(self, line: EpochLine) -> bool:
        if not self._step:  # what an earlier attempt has done, which this one continues
            for earlier in RunDir.open(self._path).metrics().epochs[:-1]:
                self._report(earlier)
        return self._report(line) and self._trial.should_prune()

    def _report(self, line: EpochLine) -> bool:
        step = self._sweep.base.epochs * line.epoch // self._epochs
        if step <= self._step:
            return False
        self._step = step
        self._trial.report(_score(self._sweep, line), step)
        return True


def _score(sweep: Sweep, line: EpochLine) -> float:
    score: float = getattr(line, sweep.config.metric)
    return score


def run_name(slot: int, seed: int) -> str:
    """The directory of a run of a trial."""
    return f"trial-{slot:04d}-seed{seed}"
