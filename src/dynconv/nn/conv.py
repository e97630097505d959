"""`DynamicConv2d`: K expert convolutions and the router that mixes them for each image.

    a = g(SpatialAveragePool(X) W),    O = a_1 Conv_1(X) + ... + a_K Conv_K(X)

Known as conditionally parameterised convolution (Yang et al. 2019, https://arxiv.org/abs/1904.04971) and dynamic
convolution (Chen et al. 2020, https://arxiv.org/abs/1912.03458). Needs torch alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.nn.mixing import Algorithm, mix_convolutions

Activation = Literal["softmax", "sigmoid", "sparsemax"]


def sparsemax(z: Tensor) -> Tensor:
    """The point of the probability simplex nearest to z, over the last dimension; its weights can be exactly 0.

    Martins and Astudillo 2016, https://arxiv.org/abs/1602.02068
    """
    sorted_z, _ = z.sort(dim=-1, descending=True)
    cumulative = sorted_z.cumsum(-1) - 1
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    support = (rank * sorted_z > cumulative).sum(-1, keepdim=True)
    threshold = cumulative.gather(-1, support - 1) / support
    return (z - threshold).clamp_min(0)


class Router(nn.Module):
    """a = g(SpatialAveragePool(X) W): x [N, C, H, W] -> routing weights [N, K].

    The last layer starts small, so that training begins near a = 1/K with gradients that differ between experts.

    Args:
        channels: C.
        experts: K.
        hidden: width of a hidden layer with ReLU; 0 for none.
        activation: g: softmax, sparsemax, or 2/K * sigmoid (1/K at zero, as the others).
        temperature: what the logits are divided by; a buffer, so that it is saved with the weights.
    """

    temperature: Tensor

    def __init__(
        self, channels: int, experts: int, hidden: int = 0, activation: Activation = "softmax", temperature: float = 1.0
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid", "sparsemax"):
            raise ValueError(f"activation: {activation!r} is none of softmax, sigmoid, sparsemax")
        if temperature <= 0:
            raise ValueError(f"temperature: must be positive, not {temperature}")
        self.activation = activation
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.linear = nn.Linear(hidden or channels, experts)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(hidden or channels))
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, x: Tensor) -> Tensor:
        # In float32 even under autocast: rounding a routing weight to 8 bits would move a whole image's kernel.
        with torch.autocast(x.device.type, enabled=False):
            features = x.float().mean((2, 3)).to(self.linear.weight.dtype)
            if self.hidden is not None:
                features = F.relu(self.hidden(features))
            logits = self.linear(features) / self.temperature
            if self.activation == "softmax":
                return logits.softmax(-1)
            if self.activation == "sigmoid":
                return logits.sigmoid() * (2 / logits.shape[-1])
            return sparsemax(logits)


class DynamicConv2d(nn.Module):
    """A convolution whose kernel is mixed from K experts, for each image by itself. x [N,C,H,W] -> [N,O,H',W'].

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as `torch.nn.Conv2d`,
            with one number for both sides.
        experts: K >= 1.
        router_hidden, activation, temperature: see `Router`.
        algorithm: how the mixture is computed, see `dynconv.nn.mixing`; the values agree up to rounding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        experts: int = 4,
        router_hidden: int = 0,
        activation: Activation = "softmax",
        temperature: float = 1.0,
        algorithm: Algorithm = "auto",
    ) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"experts: must be at least 1, not {experts}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: {groups} does not divide {in_channels} and {out_channels} channels")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.algorithm: Algorithm = algorithm
        self.weight = nn.Parameter(torch.empty(experts, out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(experts, out_channels)) if bias else None
        self.router = Router(in_channels, experts, router_hidden, activation, temperature)
        self.reset_experts()

    @torch.no_grad()
    def reset_experts(self) -> None:
        """Draws each expert as `torch.nn.Conv2d` draws its kernel: uniform, by the fan-in of one expert."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def add_identity(self) -> None:
        """Makes the first C output channels of every expert the identity plus that expert's own noise.

        The noise stays: experts that start equal stay equal, since each then gets the same gradient.
        """
        if self.groups != 1:
            raise ValueError("add_identity: needs groups = 1")
        channels = torch.arange(min(self.weight.shape[1:3]), device=self.weight.device)
        self.weight[:, channels] *= 0.5
        self.weight[:, channels, channels, self.weight.shape[3] // 2, self.weight.shape[4] // 2] += 1.0

    def routing_weights(self, x: Tensor) -> Tensor:
        """a, [N, K], for x [N, C, H, W]."""
        routing: Tensor = self.router(x)
        return routing

    def forward(self, x: Tensor, routing_weights: Tensor | None = None) -> Tensor:
        """sum_k a_k Conv_k(x); a [N, K] is the layer's own router's unless routing_weights gives another."""
        a_NK = self.routing_weights(x) if routing_weights is None else routing_weights
        return mix_convolutions(
            x,
            self.weight,
            a_NK,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            algorithm=self.algorithm,
        )

    def extra_repr(self) -> str:
        k, o, c, *kernel = self.weight.shape
        return (
            f"{c * self.groups}, {o}, kernel_size={tuple(kernel)}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, experts={k}, "
            f"algorithm={self.algorithm!r}"
        )
