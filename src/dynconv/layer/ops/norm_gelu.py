"""The operator behind the end of a training block on a CPU: max pooling, batch normalisation and GELU.

`norm_gelu.cpp` explains it.

Shape suffixes: N images, C channels, H x W spatial, K side of the pooling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynconv.layer.ops.library import Library
from dynconv.layer.ops.operator import in_transform, nhwc

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_FUNCTIONS = {
    f"dynconv_norm_gelu_{function}_{name}": (5, arrays)
    for name in _TYPES.values()
    for function, arrays in (("pool", 5), ("apply", 4), ("gradient", 10))
}
library = Library(Path(__file__).with_name("norm_gelu.cpp"), _FUNCTIONS, seconds=2)

LARGEST_POOL = 16
"""Of which positions a byte can name."""


def applies(x: Tensor, pool: int) -> bool:
    """Whether the operator can be used for this map, where it is compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype in _TYPES
        and x.dim() == 4
        and 1 <= pool <= min(*x.shape[2:], LARGEST_POOL)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not in_transform()
        and library.available()
    )


def norm_gelu(
    x_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, pool: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """GELU(batch_norm(max_pool(x))), over the images of the batch; and their mean and variance per channel.

    Gradients are computed for x and bias, not for weight, and not for gradients.

    Args:
        x_NCHW: float32 or bfloat16; channels_last is read without a copy.
        weight_C, bias_C: float32, of the normalisation.
        eps: added to the variance.
        pool: side and stride of the pooling; 1 for none. What is left at the border is dropped.

    Returns:
        The map [N, C, H // pool, W // pool] in channels_last, of the type of x; and, float32 [C] and without a
        gradient, mean and variance (divided by the count) of what was normalised.
    """
    found = _NormGelu.apply(x_NCHW, weight_C, bias_C, eps, pool)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor, Tensor]", found)


def norm_gelu_by(
    x_NCHW: Tensor, mean_C: Tensor, variance_C: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, pool: int = 1
) -> Tensor:
    """As `norm_gelu`, with a given mean and variance, as after training; without gradients."""
    x = nhwc(x_NCHW)
    n, channels, height, width = x.shape
    numbers, kind = (n, height, width, channels, pool), _TYPES[x.dtype]
    pooled = x
    if pool > 1:
        pooled = x.new_empty(n, height // pool, width // pool, channels).permute(0, 3, 1, 2)
        library.call(f"dynconv_norm_gelu_pool_{kind}", numbers, x, pooled, None, None, None)
    scale = weight_C * (variance_C + eps).rsqrt()
    out = torch.empty_like(pooled)
    library.call(f"dynconv_norm_gelu_apply_{kind}", numbers, pooled, scale, bias_C - mean_C * scale, out)
    return out


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = nhwc(x_NCHW)
        n, channels, height, width = x.shape
        numbers = (n, height, width, channels, pool)
        kind = _TYPES[x.dtype]
        mean, variance = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
        pooled, which = x, None
        if pool > 1:
            pooled, which = (
                x.new_empty(n, height // pool, width // pool, channels, dtype=dtype).permute(0, 3, 1, 2)
                for dtype in (x.dtype, torch.uint8)
            )
        into = None if which is None else pooled
        library.call(f"dynconv_norm_gelu_pool_{kind}", numbers, x, into, which, mean, variance)
        scale = weight_C * (variance + eps).rsqrt()
        shift = bias_C - mean * scale
        out = torch.empty_like(pooled)
        library.call(f"dynconv_norm_gelu_apply_{kind}", numbers, pooled, scale, shift, out)
        ctx.save_for_backward(x_NCHW if pool == 1 else pooled, which, weight_C, bias_C, scale, shift, mean, variance)
        ctx.numbers, ctx.kind, ctx.eps = numbers, kind, eps
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        pooled, which, weight, bias, scale, shift, mean, variance = ctx.saved_tensors
        n, height, width, channels, pool = ctx.numbers
        pooled, grad = nhwc(pooled), nhwc(grad_NCHW)
        bias_grad = torch.empty_like(mean)
        dx = grad.new_empty(n, height, width, channels).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        dz = torch.empty_like(pooled) if dx is None or pool > 1 else dx
        library.call(
            f"dynconv_norm_gelu_gradient_{ctx.kind}", ctx.numbers,
            pooled, which, grad, scale, shift, mean, variance + ctx.eps, dz, dx, bias_grad,
        )  # fmt: skip
        return dx, None, bias_grad if ctx.needs_input_grad[2] else None, None, None
