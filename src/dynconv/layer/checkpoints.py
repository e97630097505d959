"""Loads experts and routers that other implementations have saved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynconv.layer.conv import DynamicConv
from dynconv.layer.routing import Router


@torch.no_grad()
def load_experts(layer: DynamicConv, weight: Tensor, bias: Tensor | None = None) -> None:
    """Copies experts into a layer of the same geometry.

    Args:
        layer: made with the K, channels, kernel size and groups of the experts.
        weight: kernels in any of these layouts:
            - [K, O, C / groups, *kernel_size], as here and in most implementations,
            - [K, O * C / groups * pixels], as timm's CondConv2d has them,
            - [K * O, C / groups, *kernel_size], as one convolution with K * O outputs has them.
        bias: [K, O] or [K * O], if the layer has biases.

    Raises:
        ValueError: another shape, or a bias that only one of the two has.
    """
    experts, out_channels, channels, *kernel = layer.weight.shape
    flat, stacked = (experts, layer.weight[0].numel()), (experts * out_channels, channels, *kernel)
    if tuple(weight.shape) not in (tuple(layer.weight.shape), flat, stacked):
        raise ValueError(
            f"weight: needs {list(layer.weight.shape)}, {list(flat)} or {list(stacked)}, not {list(weight.shape)}"
        )
    if (bias is None) != (layer.bias is None):
        raise ValueError(f"bias: the layer has {'none' if layer.bias is None else 'one, and none is given'}")
    if bias is not None and layer.bias is not None:
        if bias.numel() != layer.bias.numel():
            raise ValueError(f"bias: needs {list(layer.bias.shape)}, not {list(bias.shape)}")
        layer.bias.copy_(bias.reshape(layer.bias.shape))
    layer.weight.copy_(weight.reshape(layer.weight.shape))


@torch.no_grad()
def load_router(router: Router, weight: Tensor, bias: Tensor | None = None) -> None:
    """Copies a linear map into a router without a hidden layer.

    Args:
        router: of a layer, or one that several layers share: `layer(x, routing_weights=router(x))`.
        weight: [K, C], or [K, C, 1, ...] of a pointwise convolution.
        bias: [K]; zero if not given.

    Raises:
        ValueError: another shape, or a router with a hidden layer.
    """
    if router.hidden is not None:
        raise ValueError("router: needs one without a hidden layer")
    needed = router.linear.weight.shape
    if tuple(weight.shape[:2]) != tuple(needed) or math.prod(weight.shape[2:]) != 1:
        raise ValueError(f"weight: needs {list(needed)}, not {list(weight.shape)}")
    if bias is not None and bias.shape != router.linear.bias.shape:
        raise ValueError(f"bias: needs {list(router.linear.bias.shape)}, not {list(bias.shape)}")
    router.linear.weight.copy_(weight.reshape(needed))
    router.linear.bias.copy_(torch.zeros_like(router.linear.bias) if bias is None else bias)
