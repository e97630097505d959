"""The router, and the gates g that turn its logits into routing weights.

A gate is one function [N, K] -> [N, K], registered with its properties. To add one, write it here:

    @gate("name", sums_to_one=True, signed=False)
    def name(logits_NK): ...

`Router`, `DynamicConv2d`, batch-norm folding and `collapse` need no other change.

Shape suffixes: N images, C channels, H x W spatial, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Gate:
    """A gate g and its properties. Every gate returns 1/K for logits of zero, where routers start.

    Attributes:
        function: logits [N, K] -> routing weights [N, K].
        sums_to_one: whether each row of routing weights sums to one; folding and collapsing rely on it.
        signed: whether a routing weight can be negative.
    """

    function: Callable[[Tensor], Tensor]
    sums_to_one: bool
    signed: bool


GATES: dict[str, Gate] = {}
"""The registered gates by name."""


def gate(
    name: str, *, sums_to_one: bool, signed: bool
) -> Callable[[Callable[[Tensor], Tensor]], Callable[..., Tensor]]:
    """Registers the decorated function as a gate; see `Gate` for the properties."""

    def register(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        GATES[name] = Gate(function, sums_to_one, signed)
        return function

    return register


@gate("softmax", sums_to_one=True, signed=False)
def softmax(logits_NK: Tensor) -> Tensor:
    """exp(z_k) / sum_j exp(z_j)."""
    return logits_NK.softmax(-1)


@gate("sigmoid", sums_to_one=False, signed=False)
def sigmoid(logits_NK: Tensor) -> Tensor:
    """2/K sigmoid(z_k), independently for each expert. The factor yields 1/K at zero, like the other gates."""
    return logits_NK.sigmoid() * (2 / logits_NK.shape[-1])


@gate("sparsemax", sums_to_one=True, signed=False)
def sparsemax(logits_NK: Tensor) -> Tensor:
    """The point of the probability simplex nearest to the logits. Its weights can be exactly 0.

    Martins and Astudillo 2016, https://arxiv.org/abs/1602.02068
    """
    descending, _ = logits_NK.sort(dim=-1, descending=True)
    cumulative = descending.cumsum(-1) - 1
    rank = torch.arange(1, logits_NK.shape[-1] + 1, device=logits_NK.device, dtype=logits_NK.dtype)
    support = (rank * descending > cumulative).sum(-1, keepdim=True)
    threshold = cumulative.gather(-1, support - 1) / support
    return (logits_NK - threshold).clamp_min(0)


class Router(nn.Module):
    """a = g(SpatialAveragePool(X) W): x [N, C, H, W] -> routing weights [N, K].

    The last layer starts small, so training begins near a = 1/K with gradients that differ between experts.

    Args:
        channels: C.
        experts: K.
        hidden: width of a hidden layer with ReLU; 0 for none.
        gate: the name of g, one of `GATES`.
        temperature: divides the logits. It is a buffer, so it is saved with the weights.

    Raises:
        ValueError: unknown gate, temperature not positive and finite, or negative width; the error names the argument.
    """

    temperature: Tensor

    def __init__(
        self, channels: int, experts: int, hidden: int = 0, gate: str = "softmax", temperature: float = 1.0
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate: {gate!r} is none of {', '.join(GATES)}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: must be positive and finite, not {temperature}")
        if hidden < 0:
            raise ValueError(f"router_hidden: must be at least 0, not {hidden}")
        self.gate = gate
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.linear = nn.Linear(hidden or channels, experts)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(hidden or channels))
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @property
    def sums_to_one(self) -> bool:
        """Whether the gate declares that its routing weights sum to one for every image."""
        return GATES[self.gate].sums_to_one

    def forward(self, x_NCHW: Tensor) -> Tensor:
        with _no_autocast(x_NCHW.device):
            # Uses at least float32: in bf16, the mean of a map would keep only three digits.
            wide = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
            features_NC = wide.mean((2, 3)).to(self.linear.weight.dtype)
            if self.hidden is not None:
                features_NC = F.relu(self.hidden(features_NC))
            return GATES[self.gate].function(self.linear(features_NC) / self.temperature)

    def extra_repr(self) -> str:
        return f"gate={self.gate!r}"


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keeps float32 under autocast, because rounding a routing weight to 8 bits would shift an image's whole kernel.

    The meta device has no autocast to turn off.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
