"""Second derivatives of our operators: their first ones again, written with torch's own operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def differentiable_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int, needed: Sequence[bool]
) -> Iterator[Tensor | None]:
    """Gradients of the mixture for x_NCHW, weight_KOCHW and routing_NK, those that are needed, with a graph."""
    n, c, height, width = x.shape
    mixed = (routing.to(weight.dtype) @ weight.flatten(1)).view(n * weight.shape[1], c, *weight.shape[3:])
    maps = x.reshape(1, n * c, height, width)
    out = F.conv2d(maps, mixed, stride=stride, padding=padding, groups=n).view(grad.shape)
    inputs = [tensor for tensor, wanted in zip((x, weight, routing), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return (next(found) if wanted else None for wanted in needed)
