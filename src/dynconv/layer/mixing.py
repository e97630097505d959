"""The mixture O = sum_k a_k Conv_k(X), by several exact algorithms.

Convolution is linear in its kernel and in its input, so the K convolutions need not be computed one by one:

    kernel    mix the kernels for each image, then one convolution with one group per image
    input     concatenate a_1 X, ..., a_K X on the channels, then one convolution K*C -> O
    output    one convolution C -> K*O, then the weighted sum of the K outputs
    unfold    mix the kernels for each image, unfold X into its patches, then one matrix product per image
    fused     mix the kernels tile by tile, where the tile is used: in the cache of a CPU (fused.cpp), in the registers
              of a GPU (fused_triton.py, by name only); 3x3 and 1x1
    winograd  Winograd's minimal filtering, mixed in the cache as well (winograd.cpp); CPU, float32, 3x3

`auto` takes the one that `choice.py` expects to be the fastest.

Shape suffixes: N images, K experts, C input and O output channels, H x W spatial, L output pixels, G groups.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.layer import choice
from dynconv.layer.geometry import Geometry, Pair, pair
from dynconv.layer.ops import fused, winograd

Algorithm = Literal["auto", "kernel", "input", "output", "unfold", "fused", "winograd"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


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
        ValueError: shapes, types or devices that do not fit each other; algorithm `fused` or `winograd` for a
            convolution that it does not compute.
    """
    stride, padding, dilation = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    # Asking about autocast on the meta device is an error.
    if x_NCHW.device.type != "meta" and torch.is_autocast_enabled(x_NCHW.device.type):
        dtype = torch.get_autocast_dtype(x_NCHW.device.type)
        x_NCHW, weight_KOCHW = x_NCHW.to(dtype), weight_KOCHW.to(dtype)
    _check(x_NCHW, weight_KOCHW, a_NK, groups)
    geometry = Geometry.of(x_NCHW, weight_KOCHW, stride, padding, dilation, groups)
    if geometry.stride != stride:  # the same pixels at stride 1, see Geometry.of
        x_NCHW, stride = _as_input(x_NCHW[:, :, :: stride[0], :: stride[1]], x_NCHW), geometry.stride
    chosen: str = choice.choose(geometry) if algorithm == "auto" else algorithm
    if chosen == "fused":
        if not fused.applies(geometry):
            raise ValueError(f"algorithm 'fused' {fused.DOMAIN}; use 'auto'")
        # It mixes in float32: rounding a routing weight to 8 bits would move a whole image's kernel.
        out = fused.fused(x_NCHW, weight_KOCHW, a_NK.float(), stride[0], padding[0])
    elif chosen == "winograd":
        if not winograd.applies(geometry):
            raise ValueError(f"algorithm 'winograd' {winograd.DOMAIN}; use 'auto'")
        tile, _ = winograd.best_tile(geometry)
        out = winograd.winograd(x_NCHW, weight_KOCHW, a_NK.float(), padding[0], tile)
    elif chosen in _BY:
        if geometry.training and geometry.device == "cpu" and geometry.dtype.itemsize < 4:
            weight_KOCHW = _without_taps_on_padding(weight_KOCHW, geometry)
        out = _BY[chosen](x_NCHW, weight_KOCHW, a_NK.to(x_NCHW.dtype), stride, padding, dilation, groups)
    else:
        raise ValueError(f"algorithm: {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    return out if bias_KO is None else out + (a_NK @ bias_KO.to(a_NK.dtype)).to(out.dtype)[:, :, None, None]


def _check(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, groups: int) -> None:
    """The operators read memory by these shapes and types, so nothing else may pass."""
    if x_NCHW.dim() != 4 or weight_KOCHW.dim() != 5 or x_NCHW.shape[1] != weight_KOCHW.shape[2] * groups:
        raise ValueError(
            f"x: needs [N, {weight_KOCHW.shape[2] * groups}, H, W] for experts {list(weight_KOCHW.shape)}, "
            f"not {list(x_NCHW.shape)}"
        )
    if tuple(a_NK.shape) != (x_NCHW.shape[0], weight_KOCHW.shape[0]):
        raise ValueError(
            f"routing weights: need [{x_NCHW.shape[0]}, {weight_KOCHW.shape[0]}], one for each image and expert, "
            f"not {list(a_NK.shape)}"
        )
    if x_NCHW.dtype != weight_KOCHW.dtype or not a_NK.is_floating_point():
        raise ValueError(
            f"types: x is {x_NCHW.dtype}, the experts are {weight_KOCHW.dtype}, the routing weights {a_NK.dtype}; "
            "the first two have to agree, the last to be floating point"
        )
    if not x_NCHW.device == weight_KOCHW.device == a_NK.device:
        raise ValueError(
            f"devices: x is on {x_NCHW.device}, the experts on {weight_KOCHW.device}, the routing weights on "
            f"{a_NK.device}; they have to agree"
        )


def _without_taps_on_padding(weight_KOCHW: Tensor, geometry: Geometry) -> Tensor:
    """The experts with zeros, and so gradients of zero, where the kernel meets only padding.

    There oneDNN's bfloat16 convolution (that of torch 2.13) writes nothing: its weight gradient is what the memory held
    before.
    """
    rows, columns = geometry.taps_on_padding()
    if not rows and not columns:
        return weight_KOCHW
    height, width = geometry.kernel
    used = [[i not in rows and j not in columns for j in range(width)] for i in range(height)]
    return torch.where(torch.tensor(used, device=weight_KOCHW.device), weight_KOCHW, 0.0)


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
    return _as_input(out, x_NCHW)


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


def _by_output(
    x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    k, o, *kernel = weight_KOCHW.shape
    # A group's output channels lie together, so its experts' have to.
    kernels = weight_KOCHW.unflatten(1, (groups, o // groups)).transpose(0, 1).flatten(0, 2)
    out = F.conv2d(x_NCHW, kernels, None, stride, padding, dilation, groups)
    out_NGKOHW = out.unflatten(1, (groups, k, o // groups))
    mixed = (a_NK[:, None, :, None, None, None] * out_NGKOHW).sum(2).flatten(1, 2)
    return _as_input(mixed, x_NCHW)


def _by_unfold(
    x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    n, c, h, w = x_NCHW.shape
    _, o, _, *kernel = weight_KOCHW.shape
    height, width = (
        (side + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i, side in enumerate((h, w))
    )
    if tuple(kernel) == stride == (1, 1) and padding == (0, 0):
        patches = x_NCHW.flatten(2)
    else:
        patches = F.unfold(x_NCHW, tuple(kernel), dilation, padding, stride)
    mixed = (a_NK @ weight_KOCHW.flatten(1)).view(n * groups, o // groups, c // groups * kernel[0] * kernel[1])
    out = torch.bmm(mixed, patches.reshape(n * groups, mixed.shape[-1], height * width))
    return _as_input(out.view(n, o, height, width), x_NCHW)


def _as_input(out: Tensor, x_NCHW: Tensor) -> Tensor:
    """out in the memory format of x: contiguous or channels_last. vmap knows neither by name."""
    if x_NCHW.shape[1] > 1 and x_NCHW.stride(1) == 1:
        return out.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return out.contiguous()


_BY = {"kernel": _by_kernel, "input": _by_input, "output": _by_output, "unfold": _by_unfold}
