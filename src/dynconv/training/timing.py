"""How many epochs take a given time on this machine, or as long as those of another configuration."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain, count

import torch
from torch import Tensor

from dynconv.data import Dataset
from dynconv.data.batches import training_batches
from dynconv.errors import DynconvError
from dynconv.machine import pick_device, pick_precision
from dynconv.model.net import Net
from dynconv.model.tta import TTA_VIEWS
from dynconv.training.config import MOST_EPOCHS, TrainConfig
from dynconv.training.learner import Learner

EVALUATED = 1000
"""Images from which the time of an evaluation is told."""
ROUNDS = 3
"""Timed steps of each configuration and image size, after one that warms up; the median counts."""


def epochs_within(
    config: TrainConfig, dataset: Dataset, seconds: float, *, device: str = "auto", compile: bool = False
) -> tuple[int, float]:
    """The most epochs of which a run takes no longer than `seconds`, evaluations included, and what it takes.

    Times some steps at every image size that may occur, and an evaluation.

    Raises:
        DynconvError: not even one epoch fits.
    """
    timed = _Timed(config, dataset, device, compile)
    steps = {size: _side_by_side([timed], size)[0] for size in sorted(set(config.image_sizes))}
    evaluation = timed.evaluation_seconds()
    # Once more for the report; test-time augmentation at most, were every image unsure.
    at_end = (TTA_VIEWS + 1) * evaluation if config.tta else evaluation

    def whole(epochs: int) -> float:
        return _run_seconds(config, epochs, steps, len(dataset.train.labels)) + epochs * evaluation + at_end

    if whole(1) > seconds:
        raise DynconvError(
            f"an epoch and its evaluations take about {whole(1):,.0f} s here, more than the {seconds:,.0f} s of "
            "--time; allow more time, or lower model.widths or image_sizes"
        )
    found = _most(lambda epochs: whole(epochs) <= seconds)
    return found, whole(found)


def equal_time(
    base: TrainConfig, config: TrainConfig, dataset: Dataset, *, device: str = "auto", compile: bool = False
) -> tuple[int, float]:
    """The number of epochs in which `config` trains for as long as `base`, and the predicted ratio of their times.

    Times steps of both side by side, at every image size, since other work on the machine slows both alike. The ratio
    differs from 1 because epochs are whole; it is above 1 for a configuration of which one epoch takes longer.
    """
    if _costs_the_same(base, config):
        return base.epochs, 1.0
    sizes = sorted({*base.image_sizes, *config.image_sizes})
    pair = [_Timed(each, dataset, device, compile) for each in (base, config)]
    by_size = {size: _side_by_side(pair, size) for size in sizes}
    steps = [{size: found[which] for size, found in by_size.items()} for which in (0, 1)]
    images = len(dataset.train.labels)
    budget = _run_seconds(base, base.epochs, steps[0], images)
    longer = _most(lambda epochs: _run_seconds(config, epochs, steps[1], images) < budget, least=0) + 1
    choice = min((longer, max(longer - 1, 1)), key=lambda n: abs(_run_seconds(config, n, steps[1], images) - budget))
    return choice, _run_seconds(config, choice, steps[1], images) / budget


def _costs_the_same(base: TrainConfig, config: TrainConfig) -> bool:
    """Whether the two differ only in numbers of the optimizer, such as a learning rate."""
    ours, theirs = config.optim, base.optim
    kind = ours.name == theirs.name and bool(ours.ema) == bool(theirs.ema)
    return kind and config.model_copy(update={"optim": theirs, "seed": base.seed}) == base


def _most(fits: Callable[[int], bool], least: int = 1) -> int:
    """The most epochs that fit, by bisection: where some do not, more do not. `least` is not tried."""
    beyond = least + 1
    while beyond <= MOST_EPOCHS and fits(beyond):
        least, beyond = beyond, 2 * beyond
    beyond = min(beyond, MOST_EPOCHS + 1)
    while beyond - least > 1:
        middle = (least + beyond) // 2
        least, beyond = (middle, beyond) if fits(middle) else (least, middle)
    return least


def _run_seconds(config: TrainConfig, epochs: int, step_seconds: dict[int, float], images: int) -> float:
    """The time of all training steps of a run with this number of epochs."""
    steps, sizes = images // min(config.batch_size, images), config.image_sizes[-epochs:]
    # Epoch e trains at the size at e * len(sizes) // epochs: see `TrainConfig.image_size`.
    begins = [-(-place * epochs // len(sizes)) for place in range(len(sizes) + 1)]
    whole = zip(sizes, begins[:-1], begins[1:], strict=True)
    return steps * sum((end - begin) * step_seconds[size] for size, begin, end in whole)


def _side_by_side(pair: list[_Timed], size: int) -> list[float]:
    """The median time of a step of each, in seconds; they take turns."""
    batches = [each.batches(size) for each in pair]
    times: list[list[float]] = [[] for _ in pair]
    for turn in range(ROUNDS + 1):
        for each, own, found in zip(pair, batches, times, strict=True):
            began = time.perf_counter()
            each.step(*next(own))
            if turn:
                found.append(time.perf_counter() - began)
    return [statistics.median(found) for found in times]


class _Timed:
    """A configuration whose steps are timed: network, optimizers and augmented batches, as in training."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device_name: str, compile: bool) -> None:
        self._config, self._dataset = config, dataset
        device = pick_device(device_name)
        torch.manual_seed(0)
        net = Net(config.model, len(dataset.classes))
        net.input.fit(dataset.train.sample(1000).images)
        precision, _ = pick_precision(config.precision, device)
        self._learner = Learner(net, config.optim, device, precision, compile=compile, frozen=config.freeze)
        self._learner.begin()

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless."""
        config, data = self._config, self._dataset
        return chain.from_iterable(
            training_batches(data.train, len(data.classes), config.augment, config.batch_size, size, epoch, config.seed)
            for epoch in count()
        )

    def evaluation_seconds(self) -> float:
        """The time of an evaluation on all test and held-out images, from that of a part of them."""
        splits = [split for split in (self._dataset.test, self._dataset.validation) if split]
        sample = self._dataset.test.sample(EVALUATED)
        self._learner.net.eval()
        self._learner.logits(sample.images)
        began = time.perf_counter()
        self._learner.logits(sample.images)
        seconds = time.perf_counter() - began
        self._learner.begin()
        return seconds * sum(len(split.labels) for split in splits) / len(sample.labels)

    def step(self, x_NCHW: Tensor, target: Tensor) -> None:
        """One step of the optimizers, which has ended when this returns."""
        self._learner.step(x_NCHW, target, min(self._config.images_per_pass, len(x_NCHW)))
