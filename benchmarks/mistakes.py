"""Trains with one of the mistakes that are often made in this architecture, to measure what it costs.

    python benchmarks/mistakes.py softmax-over-batch train basic --data PATH

Everything after the mistake's name is what `dynconv` takes. benchmarks/studies/mistakes.yaml has the arms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from dynconv.cli.main import main
from dynconv.layer.conv import DynamicConv
from dynconv.layer.routing import GATES, gate
from dynconv.model.net import Net
from dynconv.training import learner, trainer
from dynconv.training.config import OptimConfig
from dynconv.training.optim import build_optimizers


def softmax_over_batch() -> None:
    """The softmax's axis is that of the images, not that of the experts: softmax(dim=0)."""
    GATES.pop("softmax")

    @gate("softmax", sums_to_one=False, signed=False)
    def wrong(logits_NK: Tensor) -> Tensor:
        return logits_NK.softmax(0)


def no_activation() -> None:
    """The routing weights are the router's output itself, which starts near zero."""
    GATES.pop("softmax")

    @gate("softmax", sums_to_one=False, signed=True)
    def none(logits_NK: Tensor) -> Tensor:
        return logits_NK


def equal_experts() -> None:
    """All experts start as copies of the first one."""
    draw = DynamicConv._reset_experts

    @torch.no_grad()
    def copies(self: DynamicConv) -> None:
        draw(self)
        self.weight.copy_(self.weight[:1].expand_as(self.weight))
        if self.bias is not None:
            self.bias.copy_(self.bias[:1].expand_as(self.bias))

    DynamicConv._reset_experts = copies  # type: ignore[method-assign]


def fast_routers() -> None:
    """The routers learn at thirty times the learning rate of the rest."""

    def build(net: Net, config: OptimConfig) -> list[Optimizer]:
        optimizers = build_optimizers(net, config)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if group["name"] == "routers":
                group["peak_lr"] *= 30
        return optimizers

    learner.build_optimizers = build


def cycle_per_epoch() -> None:
    """A one-cycle schedule made for all steps is advanced once per epoch, so it stays at its start, peak / 25."""

    def start(step: int, steps: int, config: OptimConfig) -> float:
        return 1 / 25

    trainer.lr_factor = start


MISTAKES: dict[str, Callable[[], None]] = {
    made.__name__.replace("_", "-"): made
    for made in (softmax_over_batch, no_activation, equal_experts, fast_routers, cycle_per_epoch)
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MISTAKES:
        sys.exit(f"usage: python benchmarks/mistakes.py {'|'.join(MISTAKES)} train ...")
    MISTAKES[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
