"""The operator behind the router's average in bfloat16 on a CPU, which `pixel_sum.cpp` explains.

Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv.layer.ops.library import Library
from dynconv.layer.ops.operator import define, nhwc

library = Library(Path(__file__).with_name("pixel_sum.cpp"), {"dynconv_pixel_sum_bfloat16": (3, 2)}, seconds=1)


def applies(x: Tensor) -> bool:
    """Whether the operator computes this sum."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.dim() == 4


def pixel_sum(x_NCHW: Tensor) -> Tensor:
    """The sum over the pixels of each channel, float32 [N, C]. Reads channels_last without a copy.

    Raises:
        ValueError: `x_NCHW` is not bfloat16 or has not four dimensions.
        RuntimeError: the library is not available.
    """
    sums_NC: Tensor = _operator(x_NCHW)
    return sums_NC


def _kernel(x_NCHW: Tensor) -> Tensor:
    if not applies(x_NCHW):
        raise ValueError(f"dynconv::pixel_sum: needs bfloat16 [N, C, H, W] on a CPU, not {x_NCHW.dtype} {x_NCHW.shape}")
    x_NCHW = nhwc(x_NCHW)
    batch, channels, height, width = x_NCHW.shape
    sums_NC = x_NCHW.new_empty(batch, channels, dtype=torch.float32)
    library.call("dynconv_pixel_sum_bfloat16", (batch, height * width, channels), x_NCHW, sums_NC)
    return sums_NC


def _fake(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.new_empty(x_NCHW.shape[:2], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype


def _gradient(ctx: Any, grad_NC: Tensor) -> Tensor:
    return grad_NC.to(ctx.dtype)[:, :, None, None].expand(ctx.shape)


_operator = define("pixel_sum", "(Tensor x) -> Tensor", _kernel, _fake, _gradient, _save)
