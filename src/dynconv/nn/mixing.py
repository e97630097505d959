"""The mixture O = sum_k a_k Conv_k(X), by several exact algorithms, and the choice between them.

Convolution is linear in its kernel and in its input, so the K convolutions need not be computed one by one:

    kernel    mix the kernels for each image, then one convolution with one group per image
    input     concatenate a_1 X, ..., a_K X on the channels, then one convolution K*C -> O
    winograd  Winograd's minimal filtering, the kernels mixed in cache where they are used (winograd.cpp); CPU, 3x3

Shape suffixes: N images, K experts, C input and O output channels, H x W spatial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.nn import winograd

Algorithm = Literal["auto", "kernel", "input", "winograd"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)

Pair = tuple[int, int]
"""Height, width."""


def pair(value: int | Sequence[int], name: str) -> Pair:
    """One number for both sides, or two.

    Raises:
        ValueError: other than two.
    """
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: needs one number, or two for height and width, not {tuple(value)}")
    return value[0], value[1]


def mix_convolutions(
    x_NCHW: Tensor,
    weight_KOCHW: Tensor,
    a_NK: Tensor,
    bias_KO: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    algorithm: Algorithm = "auto",
) -> Tensor:
    """sum_k a_k (conv2d(x, weight_k) + bias_k) -> [N, O, H', W'].

    Args:
        x_NCHW: input.
        weight_KOCHW: the experts' kernels, [K, O, C / groups, kernel height, kernel width].
        a_NK: routing weights.
        bias_KO: the experts' biases.
        stride, padding, dilation: one number, or two for height and width.
        algorithm: all give the same values up to rounding; `auto` takes the one expected to be fastest.

    Raises:
        ValueError: algorithm `winograd` for a convolution that it does not compute.
    """
    stride, padding, dilation = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    if torch.is_autocast_enabled(x_NCHW.device.type):
        dtype = torch.get_autocast_dtype(x_NCHW.device.type)
        x_NCHW, weight_KOCHW, a_NK = x_NCHW.to(dtype), weight_KOCHW.to(dtype), a_NK.to(dtype)
    if algorithm == "auto":
        algorithm = choose_algorithm(x_NCHW, weight_KOCHW, stride, padding, dilation, groups)
    if algorithm == "winograd":
        if not winograd.applies(x_NCHW, weight_KOCHW, stride, dilation, groups, padding):
            raise ValueError(
                "algorithm 'winograd' needs float32 on a CPU, 3x3 kernels, stride, dilation and groups 1, "
                "padding up to 2 and channels in multiples of 8; use 'auto'"
            )
        tile = winograd.tile_size(x_NCHW, weight_KOCHW, padding[0])
        out = winograd.winograd(x_NCHW, weight_KOCHW, a_NK, padding[0], tile)
    elif algorithm == "kernel":
        out = _by_kernel(x_NCHW, weight_KOCHW, a_NK, stride, padding, dilation, groups)
    elif algorithm == "input":
        out = _by_input(x_NCHW, weight_KOCHW, a_NK, stride, padding, dilation, groups)
    else:
        raise ValueError(f"algorithm: {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    return out if bias_KO is None else out + (a_NK @ bias_KO.to(a_NK.dtype))[:, :, None, None]


_MIN_PIXELS = 256  # of output in the batch: fewer do not pay for Winograd's transformation of the experts


def choose_algorithm(
    x_NCHW: Tensor, weight_KOCHW: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Algorithm:
    """The algorithm that `auto` takes for this input: by the rules that the measurements in benchmarks/ support."""
    # The smaller side of the output at stride 1.
    out_size = min(x_NCHW.shape[i + 2] + 2 * padding[i] - dilation[i] * (weight_KOCHW.shape[i + 3] - 1) for i in (0, 1))
    if (
        out_size >= 2
        and x_NCHW.shape[0] * out_size * out_size >= _MIN_PIXELS
        and winograd.applies(x_NCHW, weight_KOCHW, stride, dilation, groups, padding)
        and winograd.available()
    ):
        return "winograd"
    if weight_KOCHW.shape[0] == 1 or out_size <= 12 * min(stride) or torch.onnx.is_in_onnx_export():
        return "input"
    return "kernel"


def _by_kernel(
    x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    n, c, h, w = x_NCHW.shape
    _, o, *kernel = weight_KOCHW.shape
    if n == 0:  # a convolution with no groups does not exist
        return F.conv2d(x_NCHW, weight_KOCHW[0], None, stride, padding, dilation, groups)
    mixed = (a_NK @ weight_KOCHW.flatten(1)).view(n * o, *kernel)
    out = F.conv2d(x_NCHW.reshape(1, n * c, h, w), mixed, None, stride, padding, dilation, n * groups)
    out = out.view(n, o, *out.shape[2:])
    channels_last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def _by_input(
    x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    k, o = weight_KOCHW.shape[:2]
    n, c, h, w = x_NCHW.shape
    if k == 1:
        scaled = x_NCHW * a_NK[:, :, None, None]
        return F.conv2d(scaled, weight_KOCHW[0], None, stride, padding, dilation, groups)
    # The channels of one group lie together, each group with its K scaled copies. Built NHWC: no later conversion.
    x_NHWGC = x_NCHW.permute(0, 2, 3, 1).unflatten(3, (groups, c // groups))
    scaled = x_NHWGC[:, :, :, :, None] * a_NK[:, None, None, None, :, None]
    scaled_NCHW = scaled.flatten(3).permute(0, 3, 1, 2)
    kernels = weight_KOCHW.transpose(0, 1).flatten(1, 2)
    return F.conv2d(scaled_NCHW, kernels, None, stride, padding, dilation, groups)
