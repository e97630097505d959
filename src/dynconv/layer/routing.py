"""The router, and the gates g that turn its logits into routing weights.

A gate is one function [N, K] -> [N, K], registered with its properties. To add one, write it here:

    @gate("name", sums_to_one=True, signed=False)
    def name(logits_NK): ...

The router, the layers, batch-norm folding and `collapse` need no other change.

Shape suffixes: N images, C channels, S any spatial dimensions, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.layer.pooling import spatial_mean


def _zero(experts: int) -> float:
    return 0.0


def _share(experts: int) -> float:
    return 1 / experts


@dataclass(frozen=True)
class Gate:
    """A gate g and its properties.

    Attributes:
        function: logits [N, K] -> routing weights [N, K].
        sums_to_one: whether each row of routing weights sums to one; folding and collapsing rely on it.
        signed: whether a routing weight can be negative.
        start: maps K to the logit at which routers start; it should give weights of about 1/K.
    """

    function: Callable[[Tensor], Tensor]
    sums_to_one: bool
    signed: bool
    start: Callable[[int], float] = _zero


GATES: dict[str, Gate] = {}
"""The registered gates by name."""


def gate(
    name: str, *, sums_to_one: bool, signed: bool, start: Callable[[int], float] = _zero
) -> Callable[[Callable[[Tensor], Tensor]], Callable[..., Tensor]]:
    """Registers the decorated function as a gate; see `Gate` for the properties."""

    def register(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        GATES[name] = Gate(function, sums_to_one, signed, start)
        return function

    return register


def as_gate(given: str | Gate | Callable[[Tensor], Tensor]) -> Gate:
    """The gate with the given name; a gate itself; or a function of the logits, as a gate without known properties.

    Raises:
        ValueError: no gate has this name.
    """
    if isinstance(given, Gate):
        return given
    if callable(given):
        return Gate(given, sums_to_one=False, signed=True)
    if given not in GATES:
        raise ValueError(f"gate: {given!r} is none of {', '.join(GATES)}")
    return GATES[given]


@gate("softmax", sums_to_one=True, signed=False)
def softmax(logits_NK: Tensor) -> Tensor:
    """exp(z_k) / sum_j exp(z_j)."""
    return logits_NK.softmax(-1)


@gate("sigmoid", sums_to_one=False, signed=False)
def sigmoid(logits_NK: Tensor) -> Tensor:
    """2/K sigmoid(z_k), independently for each expert. The factor yields 1/K at zero, like the other gates."""
    return logits_NK.sigmoid() * (2 / logits_NK.shape[-1])


@gate("plain_sigmoid", sums_to_one=False, signed=False)
def plain_sigmoid(logits_NK: Tensor) -> Tensor:
    """sigmoid(z_k), as CondConv has it (Yang et al. 2019): the weights start at 1/2, whatever K is."""
    return logits_NK.sigmoid()


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


@gate("tanh", sums_to_one=False, signed=True, start=lambda experts: math.atanh(min(1 / experts, 0.9)))
def tanh(logits_NK: Tensor) -> Tensor:
    """tanh(z_k)."""
    return logits_NK.tanh()


@gate("relu", sums_to_one=False, signed=False, start=_share)
def relu(logits_NK: Tensor) -> Tensor:
    """max(z_k, 0). An expert whose logit is negative for every sample gets no gradient any more."""
    return logits_NK.relu()


@gate("leaky_relu", sums_to_one=False, signed=True, start=_share)
def leaky_relu(logits_NK: Tensor) -> Tensor:
    """z_k where it is positive, else 0.01 z_k."""
    return F.leaky_relu(logits_NK)


@gate("none", sums_to_one=False, signed=True, start=_share)
def none(logits_NK: Tensor) -> Tensor:
    """z_k itself: the mixture is bilinear in the pooled input and the input."""
    return logits_NK


@gate("l1", sums_to_one=False, signed=True, start=_share)
def l1(logits_NK: Tensor) -> Tensor:
    """z_k / sum_j |z_j|: weights of either sign whose magnitudes sum to one.

    KernelWarehouse (Li and Yao 2024, https://arxiv.org/abs/2406.07879), where it is part of the attention function.
    """
    return logits_NK / logits_NK.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(logits_NK.dtype).tiny)


class Router(nn.Module):
    """a = g(SpatialAveragePool(X) W): x [N, C, *size] -> routing weights [N, K], for any number of spatial dimensions.

    The last layer starts small, so training begins near a = 1/K with gradients that differ between experts.

    Args:
        channels: C.
        experts: K.
        hidden: width of a hidden layer with ReLU; 0 for none.
        gate: g: a name, one of `GATES`; any function from logits [N, K] to routing weights [N, K]; or a `Gate`, a
            function with its properties.
        temperature: divides the logits. It is a buffer, so it is saved with the weights.
        device, dtype: of the parameters and the buffer.

    Raises:
        ValueError: unknown gate, temperature not positive and finite, or negative width; the error names the argument.
    """

    temperature: Tensor

    def __init__(
        self,
        channels: int,
        experts: int,
        hidden: int = 0,
        gate: str | Gate | Callable[[Tensor], Tensor] = "softmax",
        temperature: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        as_gate(gate)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: must be positive and finite, not {temperature}")
        if hidden < 0:
            raise ValueError(f"router_hidden: must be at least 0, not {hidden}")
        self.gate = gate
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.hidden = nn.Linear(channels, hidden, **options) if hidden else None
        self.linear = nn.Linear(hidden or channels, experts, **options)
        self._first_temperature = float(temperature)
        self.register_buffer("temperature", torch.empty((), **options))
        self._start_even()

    def reset_parameters(self) -> None:
        """Draws the router as the constructor does, and restores its temperature."""
        for layer in (self.hidden, self.linear):
            if layer is not None:
                layer.reset_parameters()
        self._start_even()

    @torch.no_grad()
    def _start_even(self) -> None:
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(self.linear.in_features))
        self.temperature.fill_(self._first_temperature)
        self.linear.bias.fill_(as_gate(self.gate).start(self.linear.out_features) * self._first_temperature)

    @property
    def sums_to_one(self) -> bool:
        """Whether the gate declares that its routing weights sum to one for every image."""
        return as_gate(self.gate).sums_to_one

    def forward(self, x_NCS: Tensor) -> Tensor:
        with _no_autocast(x_NCS.device):
            features_NC = spatial_mean(x_NCS).to(self.temperature.dtype)
            if self.hidden is not None:
                features_NC = F.relu(self.hidden(features_NC))
            return as_gate(self.gate).function(self.linear(features_NC) / self.temperature)

    def extra_repr(self) -> str:
        return f"gate={self.gate!r}"


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keeps float32 under autocast, because rounding a routing weight to 8 bits would shift an image's whole kernel.

    The meta device has no autocast to turn off.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
