"""Training throughput of a network in images per second, by algorithm and by number of experts, and its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.optim import Optimizer

from dynconv.bench import profile
from dynconv.bench.turns import HOPELESS, medians
from dynconv.data.augment import AugmentConfig
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Split
from dynconv.data.frame import SIZE
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.conv import DynamicConv2d
from dynconv.model.config import ModelConfig
from dynconv.model.cost import multiply_adds
from dynconv.model.net import Net


@dataclass(frozen=True)
class Recipe:
    """The parts of a preset that determine what a training step costs.

    Attributes:
        name: the preset's name.
        model: its network.
        image_size: side of the training images, in pixels.
        augment: what is done to them, of which the profile shows the time.
        optimizers: builds the optimizers of a network.
    """

    name: str
    model: ModelConfig
    image_size: int
    augment: AugmentConfig
    optimizers: Callable[[Net], list[Optimizer]]


def measure_step(
    recipe: Recipe,
    experts: Sequence[int],
    dtypes: Sequence[str],
    batch: int,
    rounds: int,
) -> dict[str, Any]:
    """Times a whole training step (forward, loss, backward, optimizers) on random images on the CPU.

    Methods take turns, see `turns.medians`.

    Returns:
        By dtype, the median images per second: under "algorithms" for each algorithm that can compute every layer, with
        the recipe's number of experts; under "experts" for `auto` with each number of experts. Under "parts" the share
        of each part in the time of a step of the recipe's network with `auto`, augmentation included; and multiply-adds
        per second, of the experts ("experts_rate") and of a product of two large matrices ("peak_rate").
    """
    image_size = recipe.image_size
    torch.manual_seed(0)
    images = torch.rand(batch, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    found: dict[str, Any] = {"preset": recipe.name, "batch": batch, "image_size": image_size, "types": {}}
    for dtype in dtypes:
        nets = {k: _Training(recipe, k, images) for k in {recipe.model.experts, *((k,) for k in experts)}}
        own = nets[recipe.model.experts]
        names = [name for name in ALGORITHMS if own.can_compute(images[:2], labels[:2], dtype, name)]
        methods = {("algorithms", name): partial(own.seconds, images, labels, dtype, name) for name in ("auto", *names)}
        methods |= {("experts", str(k)): partial(nets[k,].seconds, images, labels, dtype, "auto") for k in experts}
        rates: dict[str, Any] = {"algorithms": {}, "experts": {}}
        for (group, name), seconds in medians(methods, rounds, HOPELESS).items():
            rates[group][name] = batch / seconds
        found["types"][dtype] = rates | _parts(recipe, own, labels, dtype)
    return found


def _parts(recipe: Recipe, training: _Training, labels: torch.Tensor, dtype: str) -> dict[str, Any]:
    pictures = torch.randint(0, 256, (len(labels), 3, SIZE, SIZE), dtype=torch.uint8)
    split, size = Split(pictures, labels), recipe.image_size

    def step() -> None:
        with profile.part("augmentation"):
            images, _ = next(training_batches(split, 10, recipe.augment, len(labels), size, epoch=0, seed=0))
        with profile.part("loss"):
            training.seconds(images, labels, dtype, "auto")

    shares, seconds = profile.shares(step, training.net)
    rows = multiply_adds(training.net, size)
    done = 3 * len(labels) * sum(row.multiply_adds for row in rows if row.part == "experts")  # forward, and twice back
    return {
        "parts": shares,
        "experts_rate": done / (seconds * shares[profile.EXPERTS]),
        "peak_rate": profile.peak(getattr(torch, dtype)),
    }


class _Training:
    """A network with its optimizers."""

    def __init__(self, recipe: Recipe, experts: tuple[int, ...], images: torch.Tensor) -> None:
        model = recipe.model.model_copy(update={"experts": experts})
        self.net = Net(model, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net.input.fit(images)
        self.optimizers = recipe.optimizers(self.net)
        self.layers = [layer for layer in self.net.modules() if isinstance(layer, DynamicConv2d)]

    def can_compute(self, images: torch.Tensor, labels: torch.Tensor, dtype: str, algorithm: str) -> bool:
        """Whether the algorithm can compute every layer."""
        try:
            self.seconds(images, labels, dtype, algorithm)
        except ValueError:
            return False
        return True

    def seconds(self, images: torch.Tensor, labels: torch.Tensor, dtype: str, algorithm: str) -> float:
        """Duration of one step."""
        for layer in self.layers:
            layer.algorithm = algorithm
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(self.net(images), labels)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began
