"""What to change where training comes to nothing. One line each."""

from __future__ import annotations

from torch import Tensor

from dynconv.model.routing_statistics import BlockRouting
from dynconv.training.config import TrainConfig


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


def on_accuracy(accuracy: float, labels_N: Tensor) -> list[str]:
    """Where an accuracy on these labels is no better than naming the commonest class."""
    commonest = float(labels_N.bincount().max()) / len(labels_N)
    if accuracy > commonest:
        return []
    return [f"the accuracy is no better than chance ({commonest:.2%}): the network learned nothing"]
