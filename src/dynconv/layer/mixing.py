"""The mixture O = sum_k a_k Conv_k(X) as one function: checks its arguments, then runs one of `ALGORITHMS`.

Shape suffixes: N images, K experts, C input and O output channels, H x W spatial.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.layer import choice
from dynconv.layer.algorithms import ALGORITHMS, in_layout_of
from dynconv.layer.geometry import Geometry, Pair, pair


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
    algorithm: str = "auto",
) -> Tensor:
    """sum_k a_k (conv2d(x, weight_k) + bias_k) -> [N, O, H', W'].

    Args:
        x_NCHW: input, [N, C, H, W].
        weight_KOCHW: the experts' kernels, [K, O, C / groups, kernel height, kernel width].
        a_NK: routing weights, [N, K].
        bias_KO: the experts' biases, [K, O].
        stride, padding, dilation: one number, or two for height and width.
        algorithm: one of `ALGORITHMS`, which agree up to rounding, or `auto` for the one predicted to be fastest.

    Raises:
        ValueError: shapes, types or devices do not match, or the algorithm is unknown or cannot compute this
            convolution.
    """
    check_algorithm(algorithm)
    stride, padding, dilation = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    # Asking about autocast on the meta device is an error.
    if x_NCHW.device.type != "meta" and torch.is_autocast_enabled(x_NCHW.device.type):
        dtype = torch.get_autocast_dtype(x_NCHW.device.type)
        x_NCHW, weight_KOCHW = x_NCHW.to(dtype), weight_KOCHW.to(dtype)
    _check(x_NCHW, weight_KOCHW, a_NK, groups)
    geometry = Geometry.of(x_NCHW, weight_KOCHW, stride, padding, dilation, groups)
    if geometry.stride != stride:  # the same pixels at stride 1, see Geometry.computed
        x_NCHW = in_layout_of(x_NCHW, x_NCHW[:, :, :: stride[0], :: stride[1]])
    name = choice.choose(geometry) if algorithm == "auto" else algorithm
    entry = ALGORITHMS[name]
    obstacle = entry.obstacle(geometry)
    if obstacle:
        raise ValueError(f"algorithm {name!r} {obstacle}; use 'auto'")
    out = entry.compute(x_NCHW, weight_KOCHW, a_NK, geometry)
    return out if bias_KO is None else out + (a_NK @ bias_KO.to(a_NK.dtype)).to(out.dtype)[:, :, None, None]


def check_algorithm(name: str) -> None:
    """Raises ValueError unless `name` is `auto` or a registered algorithm."""
    if name != "auto" and name not in ALGORITHMS:
        raise ValueError(f"algorithm: {name!r} is none of {', '.join(('auto', *ALGORITHMS))}")


def _check(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, groups: int) -> None:
    """Raises ValueError if shapes, types or devices do not match: the operators rely on them when they read memory."""
    if x_NCHW.dim() != 4 or weight_KOCHW.dim() != 5 or x_NCHW.shape[1] != weight_KOCHW.shape[2] * groups:
        raise ValueError(
            f"x: needs [N, {weight_KOCHW.shape[2] * groups}, H, W] for experts {list(weight_KOCHW.shape)}, "
            f"not {list(x_NCHW.shape)}"
        )
    if tuple(a_NK.shape) != (x_NCHW.shape[0], weight_KOCHW.shape[0]):
        raise ValueError(
            f"routing weights: need [{x_NCHW.shape[0]}, {weight_KOCHW.shape[0]}], one per image and expert, "
            f"not {list(a_NK.shape)}"
        )
    if x_NCHW.dtype != weight_KOCHW.dtype or not a_NK.is_floating_point():
        raise ValueError(
            f"types: x is {x_NCHW.dtype}, the experts are {weight_KOCHW.dtype}, the routing weights {a_NK.dtype}; "
            "x and the experts must have the same type, the routing weights a floating-point one"
        )
    if not x_NCHW.device == weight_KOCHW.device == a_NK.device:
        raise ValueError(
            f"devices: x is on {x_NCHW.device}, the experts on {weight_KOCHW.device}, the routing weights on "
            f"{a_NK.device}; they must be on the same device"
        )
