"""What to change where training comes to nothing. One line each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from dynconv.data.examine import UNEVEN
from dynconv.model.routing_statistics import BlockRouting
from dynconv.training.config import TrainConfig

FEWEST_TESTED = 20
"""Images on which an accuracy at chance says nothing."""

FEWEST_STEPS = 30
"""Optimizer steps below which a network of any size has hardly begun to learn."""


def on_data(config: TrainConfig, labels_N: Tensor, classes: Sequence[str], size: int) -> list[str]:
    """Before training: too few steps, classes of very different sizes, or an end at another size than the tests'.

    Args:
        size: side of the test images.
    """
    return [*_on_steps(config, len(labels_N)), *_on_classes(config, labels_N, classes), *_on_size(config, size)]


def _on_size(config: TrainConfig, size: int) -> list[str]:
    last = config.image_sizes[-1]
    if last == size:
        return []
    return [
        f"training ends with images of {last} pixels and is tested with {size}: accuracy will be lower than it could "
        f"be; end --image-sizes with {size}"
    ]


def _on_steps(config: TrainConfig, images: int) -> list[str]:
    per_epoch = images // min(config.batch_size, images)
    steps = config.epochs * per_epoch
    wanted = max(20, math.ceil(FEWEST_STEPS / config.epochs))  # steps an epoch, but not of fewer than 8 images each
    smaller = 2 ** max(3, int(math.log2(max(images // wanted, 1))))
    lower = f"lower --batch-size, for example to {smaller}" if smaller < min(config.batch_size, images) else ""
    if per_epoch == 1:
        what = "is larger than" if config.batch_size > images else "takes"
        advice = lower or "add images"
        return [f"a batch of {config.batch_size:,} {what} the {images:,} training images: one step an epoch; {advice}"]
    if steps >= FEWEST_STEPS:
        return []
    advice = f"{lower}, or raise --epochs" if lower else "raise --epochs"
    return [f"only {steps} steps in total ({per_epoch} per epoch): too few to learn much; {advice}"]


def _on_classes(config: TrainConfig, labels_N: Tensor, classes: Sequence[str]) -> list[str]:
    if "balanced" in (config.class_weights, config.sampling):
        return []
    count_K = labels_N.bincount(minlength=len(classes))
    most, fewest = int(count_K.argmax()), int(count_K.masked_fill(count_K == 0, len(labels_N) + 1).argmin())
    if count_K[most] < UNEVEN * count_K[fewest]:
        return []
    return [
        f"uneven classes, from {count_K[fewest]:,} images ({classes[fewest]}) to {count_K[most]:,} ({classes[most]}): "
        "rare ones will be recognised less often; try --sampling balanced or --class-weights balanced"
    ]


def on_routing(routing: list[BlockRouting], config: TrainConfig, *, at_end: bool) -> list[str]:
    """For each block of several experts that acts as one. Before the end, an even routing may yet become a choice."""
    rate = "optim.router_lr" if config.optim.name == "muon" else "optim.lr"
    found = []
    for block in routing:
        if block.finding == "collapsed":
            found.append(f"block {block.block}: the router has collapsed onto one expert; lower {rate}")
        elif block.finding == "idle" and at_end:
            found.append(
                f"block {block.block}: the routing weights are the same for every image (standard deviation "
                f"{block.std:.4f}), so its experts act as one; raise {rate}, or train for longer"
            )
    return found


def on_accuracy(accuracy: float, labels_N: Tensor, config: TrainConfig) -> list[str]:
    """Where an accuracy on these labels is no better than naming the commonest class."""
    count_K = labels_N.bincount()
    commonest = float(count_K.max()) / len(labels_N)
    if accuracy > commonest:
        return []
    if len(labels_N) < FEWEST_TESTED:
        return [f"the {len(labels_N)} images that it was tested on are too few to tell whether it learned anything"]
    chance = f"the accuracy is no better than chance ({commonest:.2%}): the network learned nothing"
    uneven = int(count_K.max()) >= UNEVEN * int(count_K[count_K > 0].min())
    if uneven and "balanced" not in (config.class_weights, config.sampling):
        return [f"{chance} but the commonest class; try --sampling balanced"]
    return [f"{chance}; raise --epochs, or change --optim.lr (now {config.optim.lr:g})"]
