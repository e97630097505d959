"""A dynamic layer that starts as a static convolution, and a static convolution that equals a dynamic layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dynconv.layer.conv import DynamicConv

Static = nn.Conv1d | nn.Conv2d | nn.Conv3d


@torch.no_grad()
def fill(layer: DynamicConv, conv: Static, noise: float) -> None:
    """Gives a layer of the same geometry the output of `conv`, and freezes in it what is frozen in `conv`.

    See `DynamicConv.from_conv`.
    """
    nn.init.zeros_(layer.router.linear.weight)
    total = 1.0 if layer.router.sums_to_one else _constant_routing(layer).sum()
    deviations = torch.randn_like(layer.weight) * (noise * _spread(conv.weight))
    layer.weight.copy_((conv.weight + deviations - deviations.mean(0)) / total)
    if layer.bias is not None and conv.bias is not None:
        layer.bias.copy_((conv.bias / total).expand_as(layer.bias))
    for parameter in (layer.weight, *layer.router.parameters()):
        parameter.requires_grad_(conv.weight.requires_grad)
    if layer.bias is not None and conv.bias is not None:
        layer.bias.requires_grad_(conv.bias.requires_grad)


@torch.no_grad()
def collapse(layer: DynamicConv) -> Static:
    """See `DynamicConv.collapse`."""
    always_one = layer.experts == 1 and layer.router.sums_to_one
    if not always_one and layer.router.linear.weight.count_nonzero():
        raise ValueError("collapse: the routing depends on the image, so there is no one convolution")
    weight, a_K = layer.kernels(), _constant_routing(layer)
    make: Callable[..., Static] = layer.static_type
    conv = make(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None, layer.padding_mode, weight.device, weight.dtype,
    )  # fmt: skip
    conv.weight.copy_(torch.einsum("k,k...->...", a_K, weight))
    if conv.bias is not None and layer.bias is not None:
        conv.bias.copy_(a_K @ layer.bias)
    return conv


def _constant_routing(layer: DynamicConv) -> Tensor:
    """The routing weights a, [K], in the experts' type, of a router that does not depend on the sample."""
    x_C1 = layer.weight.new_zeros(layer.in_channels, *(1,) * layer.dims)
    return layer.routing_weights(x_C1).to(layer.weight.dtype)


def _spread(weight: Tensor) -> Tensor:
    """The standard deviation that `fill` multiplies its noise by; positive for every kernel.

    If a kernel's own deviation is below a tenth of its mean absolute weight, the kernel is nearly constant, and noise
    of that size could vanish in rounding. No branch depends on a value, because meta tensors have none.
    """
    magnitude = weight.abs().mean()
    spread = weight.std() if weight.numel() > 1 else torch.zeros_like(magnitude)
    spread = torch.where(spread > 0.1 * magnitude, spread, magnitude)
    return torch.where(spread > 0, spread, 1 / math.sqrt(3 * weight[0].numel()))
