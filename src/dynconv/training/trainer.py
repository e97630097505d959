"""The training loop: hyper-parameters and a data set in, a filled run directory out.

One class, which reads downward from `fit` to the summary; what a single step does is in `learner.py`. It is longer than
most files because a run's parts share its counters, and in several files their order would be lost.

Everything random is drawn from generators seeded by (seed, epoch) or (seed, step), and the state is saved every few
minutes and after each epoch, so a resumed run sees the same batches, and drops the same channels, as one that was never
interrupted.

Where several processes train together (`distributed.py`), each of them runs all of this: they see the same figures and
take the same decisions, and the leading one alone writes.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import EpochLine, Line, StepLine, Summary, WarningLine
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_last_state, save_state
from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Dataset
from dynconv.errors import DynconvError
from dynconv.machine import pick_device, pick_precision
from dynconv.model.cost import total_multiply_adds
from dynconv.model.net import Net
from dynconv.model.tta import tta_logits
from dynconv.training import advice
from dynconv.training.config import TrainConfig
from dynconv.training.distributed import ALONE, Group
from dynconv.training.figures import accuracy_of, balanced_class_weights, loss_of
from dynconv.training.initial import take_over
from dynconv.training.learner import Learner
from dynconv.training.logs import LogName, Logs
from dynconv.training.memory import OutOfMemoryError, ran_out
from dynconv.training.optim import lr_factor, set_learning_rates
from dynconv.training.process import keep_freed_memory, peak_memory, place
from dynconv.training.progress import Progress
from dynconv.training.signals import NoticeError, Signals, heard_signals
from dynconv.training.stopping import PATIENCE, TARGET, Stopping

ROUTING_IMAGES = 500
"""Test images, drawn at random, over which the routing of an epoch is recorded."""

MOST_RESTARTS = 5
"""How often training goes on from the last state with half the learning rates, with `on_nan: restart`."""

INTERRUPT, NON_FINITE, PRUNED = "interrupt", "non-finite loss", "pruned"
"""What can stop a run before its last epoch, as its summary names it, besides the hold-out (`stopping.py`)."""

Hopeless = Callable[[EpochLine], bool]
"""Asked with the record of each whole epoch but the last; true ends the run there."""

logger = logging.getLogger(__name__)


@dataclass
class EpochSums:
    """What the steps of an epoch have added up so far, and how many there were."""

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0


class Trainer:
    """One training run, from its hyper-parameters to its summary.

    Attributes:
        step: optimizer steps done.
        epochs_done: whole epochs done.
        sums: of the epoch that goes on.
        restarts: how often it has gone back to the last state, with half the learning rates each time.
        seconds: spent in training steps.
        stopping: what the hold-out has decided so far.
        stopped_by: why the run ended before its last epoch; None otherwise.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, run: RunDir, progress: Progress,
        *, device: str = "auto", compile: bool = False, checkpoint_minutes: float = 5.0, group: Group = ALONE,
        initial: Weights | None = None, log: Sequence[LogName] = (),
    ) -> None:  # fmt: skip
        self.began = time.perf_counter()
        self.checkpoint_seconds, self.saved_at = 60 * checkpoint_minutes, time.monotonic()
        keep_freed_memory()
        self.config, self.dataset, self.run, self.progress, self.group = config, dataset, run, progress, group
        target = pick_device(device)
        self.train, self.test = place(dataset.train, target), place(dataset.test, target)
        self.held_out = place(dataset.validation, target) if dataset.validation else None
        if self.train.images.device.type != target.type:
            logger.info("the images stay in main memory: %s has too little for them", target)

        torch.manual_seed(config.seed)
        net = Net(config.model, len(dataset.classes))
        net.input.fit(statistics_sample(config, dataset))
        if initial:
            for line in take_over(net, dataset.classes, initial):
                logger.info("  %s", line)
        precision, _ = pick_precision(config.precision, target)
        weights = None
        if config.class_weights == "balanced":
            weights = balanced_class_weights(dataset.train.labels.cpu(), len(dataset.classes))
        self.learner = Learner(
            net, config.optim, target, precision, compile=compile, group=group, frozen=config.freeze,
            class_weights=weights,
        )  # fmt: skip

        images = len(self.train.labels)
        self.batch_size = min(config.batch_size, images)
        self.micro_batch = min(config.images_per_pass, self.batch_size)
        for text in advice.on_data(config, dataset.train.labels, dataset.classes, dataset.frame.size):
            logger.warning(text)
        self.steps_per_epoch = images // self.batch_size
        self.steps = config.epochs * self.steps_per_epoch
        self.step, self.epochs_done, self.seconds, self.sums = 0, 0, 0.0, EpochSums()
        self.restarts = 0
        self.stopping = Stopping(config)
        self.stopped_by: str | None = None
        self.last_epoch: EpochLine | None = None
        self.test_logits: Tensor | None = None  # by the weights as they are now
        self.mine, self.micro_batch_of_mine = group.share_of_batch(self.batch_size, self.micro_batch)
        self.logs = Logs(run, log) if group.leads else None
        self.summary: Summary | None = None

    def fit(self, resume: bool = False, hopeless: Hopeless | None = None) -> Summary:
        """Trains, writes everything into the run directory, returns its summary.

        Ctrl-C ends the run after the current step, with the weights as they are. So does a loss or a weight that is not
        finite, with the weights of the last saved state; `hopeless`, after the epoch that it was asked about; and the
        hold-out, as `patience` and `target` say. The summary's `stopped_by` names which of them.

        Raises:
            NoticeError: the system is about to end the process; the state has been saved, and nothing else is written.
            OutOfMemoryError: there was too little memory; the last saved state is there.
        """
        if resume and self.group.share(self.run.has_begun):
            self.restore()
            self.last_epoch = self.group.share(self.rewind)
        else:  # so that there is something to go back to in the first epoch too
            self.save()
        self.progress.start(self.steps, self.config.epochs, self.step)
        try:
            with heard_signals() as signals:
                self.stopped_by = self.enough()
                while self.epochs_done < self.config.epochs and self.stopped_by is None:
                    try:
                        self.fit_epoch(signals)
                    except _NotFiniteError as error:
                        self.go_back(error)
                    if hopeless and self.last_epoch and not self.stopped_by and self.epochs_done < self.config.epochs:
                        self.stopped_by = PRUNED if hopeless(self.last_epoch) else None
                    self.stopped_by = self.stopped_by or self.enough()
                with signals.at_once(interrupt=True):
                    return self.finish()
        except NoticeError as notice:
            raise NoticeError(
                f"{notice} after step {self.step} of {self.steps}; nothing is lost: continue with "
                f"`dynconv train --resume {self.run.path}`"
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            raise OutOfMemoryError(
                f"out of memory at step {self.step + 1}; start again with a lower micro_batch or model.widths, or free "
                f"some memory and continue with `dynconv train --resume {self.run.path}`"
            ) from error
        finally:
            if self.logs:
                self.logs.close(self.summary)

    def rewind(self) -> EpochLine | None:
        """Removes from the records what is written again; returns the last epoch that stays."""
        self.run.rewind(self.step, self.epochs_done, within_epoch=self.sums.steps > 0)
        return next(reversed(self.run.metrics().epochs), None)

    def enough(self) -> str | None:
        """Why the hold-out ends the run before its last epoch; None where it does not."""
        return self.stopping.reason(self.epochs_done) if self.epochs_done < self.config.epochs else None

    def fit_epoch(self, signals: Signals) -> None:
        """An epoch, or what is left of it, or its next steps if it is interrupted: train, evaluate, record, save."""
        epoch = self.epochs_done
        self.train_epoch(epoch, signals)
        self.progress.testing()
        try:
            with signals.at_once():
                figures = self.evaluate()
                routing = self.learner.routing(self.test.sample(ROUTING_IMAGES).images)
        except NoticeError:
            self.save()
            raise
        if not self.stopped_by:
            self.epochs_done += 1
        sums = self.sums
        self.last_epoch = EpochLine(
            epoch=epoch + 1,
            step=self.step,
            train_loss=sums.loss / max(sums.images, 1),
            train_accuracy=sums.correct / max(sums.images, 1),
            **figures,
            lr=self.rates,
            image_size=self.config.image_size(epoch),
            seconds=self.seconds,
            images_per_second=sums.images / sums.seconds,
            routing=routing,
        )
        self.record(self.last_epoch)
        self.progress.epoch(self.last_epoch, whole=not self.stopped_by)
        if not self.stopped_by:
            accuracy = self.group.share(lambda: figures.get("validation_accuracy"))  # so that all decide alike
            self.stopping.see(self.epochs_done, accuracy, self.learner.snapshot)
        at_end = self.epochs_done == self.config.epochs or bool(self.enough())
        for text in advice.on_routing(routing, self.config, at_end=at_end):
            self.warn(self.step, text)
        if not self.stopped_by:
            self.sums = EpochSums()
            self.save()

    def train_epoch(self, epoch: int, signals: Signals) -> None:
        """The steps of an epoch that are left; adds them to `sums`."""
        self.learner.begin()
        config, sums, size = self.config, self.sums, self.config.image_size(epoch)
        began = time.perf_counter()
        batches = training_batches(
            self.train, len(self.dataset.classes), config.augment, self.batch_size, size, epoch, config.seed,
            first=sums.steps, mine=self.mine, balanced=config.sampling == "balanced",
        )  # fmt: skip
        for x_NCHW, target in batches:
            step_began = time.perf_counter()
            # For dropout, which takes no generator, and drops different channels in different processes.
            torch.manual_seed(config.seed * 1_000_003 + self.step + 500_009 * self.group.rank)
            self.set_rates(self.step)
            loss_sum, right = self.learner.step(x_NCHW, target, self.micro_batch_of_mine, self.batch_size)
            if not math.isfinite(loss_sum):
                raise _NotFiniteError("the loss is not finite at", self.step + 1)
            self.step += 1
            now = time.perf_counter()
            sums.steps, sums.images = sums.steps + 1, sums.images + self.batch_size
            sums.loss, sums.correct = sums.loss + loss_sum, sums.correct + right
            self.seconds, sums.seconds, began = self.seconds + now - began, sums.seconds + now - began, now
            speed = self.batch_size / (now - step_began)
            self.record(StepLine(
                step=self.step, epoch=self.step / self.steps_per_epoch, loss=loss_sum / self.batch_size, lr=self.rates,
                image_size=size, images_per_second=speed, seconds=self.seconds,
            ))  # fmt: skip
            self.progress.step(self.step, loss_sum / self.batch_size, sums.correct / sums.images, speed)
            due = self.group.leads and time.monotonic() - self.saved_at >= self.checkpoint_seconds
            heard, save_now = self.group.most(signals.heard or 0, due)
            if heard or save_now:
                self.save()
                began = time.perf_counter()
            if heard:
                signals.hear(heard)  # whichever process has heard it
                with signals.at_once():  # a notice ends it here
                    self.stopped_by = INTERRUPT
                break

    def set_rates(self, step: int) -> None:
        """The learning rates of a step (from 0)."""
        factor = lr_factor(step, self.steps, self.config.optim) / 2**self.restarts
        self.rates = set_learning_rates(self.learner.optimizers, factor)

    def evaluate(self) -> dict[str, Any]:
        """Loss and accuracy on the test images and on those held out, by the fields of `EpochLine`."""
        self.test_logits = self.learner.logits(self.test.images)
        figures = {
            "test_loss": loss_of(self.test_logits, self.test.labels),
            "test_accuracy": accuracy_of(self.test_logits, self.test.labels),
        }
        if self.held_out:
            logits = self.learner.logits(self.held_out.images)
            figures["validation_loss"] = loss_of(logits, self.held_out.labels)
            figures["validation_accuracy"] = accuracy_of(logits, self.held_out.labels)
        if not (all(map(math.isfinite, figures.values())) and self.learner.is_finite()):
            raise _NotFiniteError("the weights are not finite after", self.step)
        return figures

    def record(self, line: Line) -> None:
        """Writes a line of metrics, and the same to the logs, in the leading process."""
        if self.logs:
            line = line.model_copy(update={"data": self.dataset.name})
            self.run.append(line)
            self.logs.record(line)

    def warn(self, step: int, text: str) -> None:
        """Says it, and records it."""
        logger.warning(text)
        self.record(WarningLine(step=step, text=text))

    def go_back(self, error: _NotFiniteError) -> None:
        """Goes back to the last saved state, to stop with its weights or to go on from it, as `on_nan` says."""
        text = f"{error} step {error.step} (epoch {self.epochs_done + 1})"
        self.restore()
        self.test_logits = None
        after = f"step {self.step}" if self.sums.steps else f"epoch {self.epochs_done}"
        if self.config.on_nan == "restart" and self.restarts < MOST_RESTARTS:
            self.last_epoch = self.group.share(self.rewind)
            self.restarts += 1
            self.save()  # with the count of restarts
            self.warn(self.step, f"{text}: going on from {after} with 1/{2**self.restarts} of the learning rates")
            return
        self.stopped_by = NON_FINITE
        self.record(WarningLine(step=error.step, text=text))
        logger.warning("%s: stopped; the weights are those after %s", text, after)

    def save(self) -> None:
        """Writes all that `restore` needs, unless weights are not finite."""
        if not self.learner.is_finite():
            raise _NotFiniteError("the weights are not finite after", self.step)
        self.saved_at = time.monotonic()
        if not self.group.leads:
            return
        progress: dict[str, Any] = {"epochs": self.epochs_done, "seconds": self.seconds, "restarts": self.restarts}
        progress |= {"within_epoch": asdict(self.sums), "best": self.stopping.state_dict()}
        self.run.sync_metrics()
        save_state(self.run.state, progress | self.learner.state_dict())

    def restore(self) -> None:
        """Loads what `save` wrote last. Raises DynconvError where it is damaged or of another configuration."""
        state = self.group.share(lambda: load_last_state(self.run.state))
        sums = state.get("within_epoch", {})
        try:
            self.learner.load_state_dict(state)
            self.stopping.load_state_dict(state.get("best", {}), state["epochs"])
            if state["epochs"] > self.config.epochs:
                raise ValueError(f"{min(state['epochs'], 10**9)} epochs done of {self.config.epochs}")
            if not self.learner.net.input.fitted:
                raise ValueError("the input statistics were never set")
            self.sums = EpochSums(**sums)
            if self.sums.steps > self.steps_per_epoch:
                raise ValueError(f"{min(self.sums.steps, 10**9)} steps done of an epoch's {self.steps_per_epoch}")
        except (RuntimeError, ValueError, TypeError) as error:
            raise DynconvError(
                f"{self.run.state}: does not fit this run's configuration ({str(error).splitlines()[0]})"
            ) from error
        self.epochs_done, self.seconds, self.restarts = state["epochs"], state["seconds"], state.get("restarts", 0)
        self.step = self.epochs_done * self.steps_per_epoch + self.sums.steps
        self.set_rates(max(self.step - 1, 0))

    def finish(self) -> Summary:
        """Writes weights, predictions and, last, the summary."""
        config, dataset, learner, labels = self.config, self.dataset, self.learner, self.test.labels
        if self.stopping.weights is not None:
            self.take_best(self.stopping.weights)
        logits = learner.logits(self.test.images) if self.test_logits is None else self.test_logits
        if not logits.isfinite().all():  # of weights that are finite but too large, from a state
            raise DynconvError(f"{self.run.state}: the network's output is not finite; start the run again")
        if self.group.leads:
            state = learner.evaluated.state_dict()
            weights = Weights(
                state, config.model, dataset.classes, dataset.name, self.provenance(), config.precision, dataset.frame
            )
            save_weights(self.run.weights, weights)
        logits_tta = None
        if config.tta:
            logits_tta = tta_logits(logits, self.test.images, lambda images: learner.logits(images, views=True))
        summary = self.summarise(logits, logits_tta)
        if self.group.leads:
            probabilities = (logits if logits_tta is None else logits_tta).softmax(1).cpu()
            self.run.write_predictions(Predictions(labels.cpu(), probabilities, dataset.classes, dataset.name))
            self.run.write_summary(summary)
            self.summary = summary
        if summary.finished:
            for text in advice.on_accuracy(summary.best_accuracy, labels, config):
                logger.warning(text)
        return summary

    def take_best(self, weights: Mapping[str, Tensor]) -> None:
        """Goes back to the weights of the epoch that was best on the hold-out, and to that epoch's record."""
        try:
            self.learner.evaluate_with(weights)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DynconvError(f"{self.run.state}: the best epoch's weights do not fit ({reason})") from error
        if self.last_epoch is None or self.last_epoch.epoch != self.stopping.epoch or self.sums.steps:
            self.test_logits = None
        self.last_epoch = self.group.share(
            lambda: next((line for line in self.run.metrics().epochs if line.epoch == self.stopping.epoch), None)
        )

    def summarise(self, logits: Tensor, logits_tta: Tensor | None) -> Summary:
        """The final figures, of the test images' logits."""
        config, last, labels, net = self.config, self.last_epoch, self.test.labels, self.learner.net
        return Summary(
            preset=config.preset,
            data=self.dataset.name,
            seed=config.seed,
            epochs=self.epochs_done,
            epochs_planned=config.epochs,
            finished=self.stopped_by in (None, PATIENCE, TARGET),
            stopped_by=self.stopped_by,
            selected_by="hold-out accuracy" if self.stopping.weights else None,
            selected_epoch=self.stopping.epoch if self.stopping.weights else None,
            test_accuracy=accuracy_of(logits, labels),
            test_accuracy_tta=None if logits_tta is None else accuracy_of(logits_tta, labels),
            test_loss=loss_of(logits, labels),
            train_accuracy=last.train_accuracy if last else None,
            validation_accuracy=last.validation_accuracy if last else None,
            train_seconds=self.seconds,
            total_seconds=time.perf_counter() - self.began,
            parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
            multiply_adds=total_multiply_adds(net, self.test.images.shape[-1]),
            device=str(self.learner.device),
            precision=self.learner.precision,
            peak_memory_bytes=peak_memory(),
            version=version("dynconv"),
        )

    def provenance(self) -> str:
        """Where the weights come from, for people."""
        done = f"{self.epochs_done} of {self.config.epochs} epochs" if self.stopped_by else f"{self.epochs_done} epochs"
        best, chosen = self.stopping, ""
        if best.weights:
            chosen = f", weights of epoch {best.epoch}, the best on the hold-out ({best.accuracy:.2%})"
        return (
            f"dynconv {version('dynconv')}: preset {self.config.preset}, {done} on {self.dataset.name}, seed "
            f"{self.config.seed}{chosen}" + (f", from {Path(self.config.init).name}" if self.config.init else "")
        )


def statistics_sample(config: TrainConfig, dataset: Dataset) -> Tensor:
    """The training images from which the input statistics are computed, uint8 [N, 3, H, W]."""
    return dataset.train.sample(10_000, config.seed).images


class _NotFiniteError(Exception):
    """Training has left the numbers: what is not finite, and at which step (from 1)."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(what)
        self.step = step
