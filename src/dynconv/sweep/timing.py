"""Equal training time: how many epochs of one configuration take as long as the base configuration's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import chain, count

import torch
from torch import Tensor

from dynconv.data import Dataset
from dynconv.data.batches import training_batches
from dynconv.machine import pick_device, pick_precision
from dynconv.model.net import Net
from dynconv.training.config import TrainConfig
from dynconv.training.launch import Launch
from dynconv.training.learner import Learner

ROUNDS = 3
"""Timed steps of each configuration and image size, after one that warms up; the median counts."""


def equal_time(base: TrainConfig, config: TrainConfig, dataset: Dataset, launch: Launch) -> tuple[int, float]:
    """The number of epochs in which `config` trains for as long as `base`, and the predicted ratio of their times.

    Times steps of both side by side, at every image size, since other work on the machine slows both alike. The ratio
    differs from 1 because epochs are whole; it is above 1 for a configuration of which one epoch takes longer.
    """
    if _costs_the_same(base, config):
        return base.epochs, 1.0
    sizes = sorted({*base.image_sizes, *config.image_sizes})
    pair = [_Timed(each, dataset, launch) for each in (base, config)]
    by_size = {size: _side_by_side(pair, size) for size in sizes}
    steps = [{size: found[which] for size, found in by_size.items()} for which in (0, 1)]
    images = len(dataset.train.labels)
    budget = _run_seconds(base, base.epochs, steps[0], images)
    longer = next(n for n in count(1) if _run_seconds(config, n, steps[1], images) >= budget)
    choice = min((longer, max(longer - 1, 1)), key=lambda n: abs(_run_seconds(config, n, steps[1], images) - budget))
    return choice, _run_seconds(config, choice, steps[1], images) / budget


def _costs_the_same(base: TrainConfig, config: TrainConfig) -> bool:
    """Whether the two differ only in numbers of the optimizer, such as a learning rate."""
    ours, theirs = config.optim, base.optim
    kind = ours.name == theirs.name and bool(ours.ema) == bool(theirs.ema)
    return kind and config.model_copy(update={"optim": theirs, "seed": base.seed}) == base


def _run_seconds(config: TrainConfig, epochs: int, step_seconds: dict[int, float], images: int) -> float:
    """The time of all training steps of a run with this number of epochs."""
    whole = config.model_copy(update={"epochs": epochs})
    steps = images // min(config.batch_size, images)
    return steps * sum(step_seconds[whole.image_size(epoch)] for epoch in range(epochs))


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

    def __init__(self, config: TrainConfig, dataset: Dataset, launch: Launch) -> None:
        self._config, self._dataset = config, dataset
        device = pick_device(launch.device)
        torch.manual_seed(0)
        net = Net(config.model, len(dataset.classes))
        net.input.fit(dataset.train.sample(1000).images)
        precision, _ = pick_precision(config.precision, device)
        self._learner = Learner(net, config.optim, device, precision, compile=launch.compile)
        self._learner.net.train()

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless."""
        config, data = self._config, self._dataset
        return chain.from_iterable(
            training_batches(data.train, len(data.classes), config.augment, config.batch_size, size, epoch, config.seed)
            for epoch in count()
        )

    def step(self, x_NCHW: Tensor, target: Tensor) -> None:
        """One step of the optimizers, which has ended when this returns."""
        self._learner.step(x_NCHW, target, min(self._config.micro_batch, len(x_NCHW)))
