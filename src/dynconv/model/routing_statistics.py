"""Statistics of a network's routing over some images, three per block, and what is wrong with it, if anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dynconv.model.net import Net

COLLAPSED = 0.02
"""A router whose mean routing weights have less than this entropy (1 = uniform) uses one expert for every image."""

IDLE = 0.002
"""Routing weights whose standard deviation over images is below this are in effect the same for every image."""

UNUSED = 0.1
"""An expert whose mean routing weight is smaller than this fraction of 1/K contributes hardly anything."""

Finding = Literal["", "collapsed", "idle", "unused"]


class BlockRouting(BaseModel):
    """The routing of one block over some images.

    Attributes:
        block: number of the block, from 1.
        mean: mean routing weight of each expert.
        entropy: normalised entropy of the sizes of these means, which may be negative, as shares of their sum: 1 is
            uniform, 0 is one expert.
        std: standard deviation of the routing weights over images, averaged over the experts.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="allow")

    block: int
    mean: list[float]
    entropy: float
    std: float

    @property
    def finding(self) -> Finding:
        """The problem, if any: one expert for every image, one mixture for every image, or an unused expert."""
        experts = len(self.mean)
        if experts == 1:
            return ""
        if self.entropy < COLLAPSED:
            return "collapsed"
        if self.std < IDLE:
            return "idle"
        return "unused" if min(map(abs, self.mean)) < UNUSED / experts else ""


def summarise(routing: Sequence[Tensor]) -> list[BlockRouting]:
    """The statistics of each block's routing weights [N, K]."""
    return [_of_block(number, a_NK) for number, a_NK in enumerate(routing, 1)]


def _of_block(number: int, a_NK: Tensor) -> BlockRouting:
    mean_K = a_NK.mean(0)
    share_K = mean_K.abs() / mean_K.abs().sum().clamp_min(1e-12)
    experts = len(share_K)
    entropy = float(torch.special.entr(share_K).sum()) / math.log(experts) if experts > 1 else 1.0
    spread = float(a_NK.std(0, correction=0).mean())
    return BlockRouting(block=number, mean=mean_K.tolist(), entropy=entropy, std=spread)


@torch.no_grad()
def routing_statistics(net: Net, images_NCHW: Tensor) -> list[BlockRouting]:
    """The statistics of `net` in evaluation mode over images [N, 3, H, W]; restores the mode of `net` afterwards."""
    was_training = net.training
    net.eval()
    try:
        return summarise(net.routing_weights(images_NCHW))
    finally:
        net.train(was_training)
