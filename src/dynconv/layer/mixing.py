"""The mixture O = sum_k a_k Conv_k(X) as one function: checks its arguments, then runs one of `ALGORITHMS`.

Shape suffixes: N images, K experts, C input and O output channels, S one to three spatial dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.layer import choice
from dynconv.layer.algorithms import ALGORITHMS, in_layout_of
from dynconv.layer.geometry import AXES, Geometry, Sizes, sizes


def mix_convolutions(
    x_NCS: Tensor,
    weight_KOCS: Tensor,
    a_NK: Tensor,
    bias_KO: Tensor | None = None,
    *,
    stride: int | Sizes = 1,
    padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Tensor:
    """sum_k a_k (conv(x, weight_k) + bias_k), for one to three spatial dimensions.

    Args:
        x_NCS: input, [N, C, *size].
        weight_KOCS: the experts' kernels, [K, O, C / groups, *kernel].
        a_NK: routing weights, [N, K].
        bias_KO: the experts' biases, [K, O].
        stride, padding, dilation: one number, or one per spatial dimension.
        algorithm: one of `ALGORITHMS`, which agree up to rounding, or `auto` for the fastest, by measurement or
            prediction.

    Returns:
        The mixture, [N, O, *out_size], in the memory format of x, contiguous or channels_last.

    Raises:
        ValueError: shapes, types or devices do not match, or the algorithm is unknown or cannot compute this
            convolution.
        NotImplementedError: a forward-mode derivative of a compiled operator that was chosen by name.
    """
    check_algorithm(algorithm)
    # Asking about autocast on the meta device is an error.
    if x_NCS.device.type != "meta" and torch.is_autocast_enabled(x_NCS.device.type):
        dtype = torch.get_autocast_dtype(x_NCS.device.type)
        x_NCS, weight_KOCS = x_NCS.to(dtype), weight_KOCS.to(dtype)
    _check(x_NCS, weight_KOCS, a_NK, groups)
    dims = x_NCS.dim() - 2
    stride, padding = sizes(stride, dims, "stride"), sizes(padding, dims, "padding")
    dilation = sizes(dilation, dims, "dilation")
    geometry = Geometry.of(x_NCS, weight_KOCS, stride, padding, dilation, groups)
    if geometry.stride != stride:  # the same pixels at stride 1, see Geometry.computed
        x_NCS = in_layout_of(x_NCS, x_NCS[:, :, *(slice(None, None, step) for step in stride)])
    name = choice.choose(geometry) if algorithm == "auto" else algorithm
    entry = ALGORITHMS[name]
    obstacle = entry.obstacle(geometry)
    if obstacle:
        raise ValueError(f"algorithm {name!r} {obstacle}; use 'auto'")
    out = in_layout_of(x_NCS, entry.compute(x_NCS, weight_KOCS, a_NK, geometry))
    if bias_KO is None:
        return out
    bias_NO = (a_NK @ bias_KO.to(a_NK.dtype)).to(out.dtype)
    return out + bias_NO.view(*bias_NO.shape, *(1,) * dims)


def check_algorithm(name: str) -> None:
    """Raises ValueError unless `name` is `auto` or a registered algorithm."""
    if name != "auto" and name not in ALGORITHMS:
        raise ValueError(f"algorithm: {name!r} is none of {', '.join(('auto', *ALGORITHMS))}")


def _check(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, groups: int) -> None:
    """Raises ValueError if shapes, types or devices do not match: the operators rely on them when they read memory."""
    dims = weight_KOCS.dim() - 3
    if not 1 <= dims <= 3:
        raise ValueError(f"experts: need [K, O, C, *kernel], a kernel of 1 to 3 sides, not {list(weight_KOCS.shape)}")
    if x_NCS.dim() != dims + 2 or x_NCS.shape[1] != weight_KOCS.shape[2] * groups:
        raise ValueError(
            f"x: needs [N, {weight_KOCS.shape[2] * groups}, {AXES[dims]}] for experts {list(weight_KOCS.shape)}, "
            f"not {list(x_NCS.shape)}"
        )
    if tuple(a_NK.shape) != (x_NCS.shape[0], weight_KOCS.shape[0]):
        raise ValueError(
            f"routing weights: need [{x_NCS.shape[0]}, {weight_KOCS.shape[0]}], one per image and expert, "
            f"not {list(a_NK.shape)}"
        )
    if x_NCS.dtype != weight_KOCS.dtype or not a_NK.is_floating_point():
        raise ValueError(
            f"types: x is {x_NCS.dtype}, the experts are {weight_KOCS.dtype}, the routing weights {a_NK.dtype}; "
            "x and the experts must have the same type, the routing weights a floating-point one"
        )
    if not x_NCS.device == weight_KOCS.device == a_NK.device:
        raise ValueError(
            f"devices: x is on {x_NCS.device}, the experts on {weight_KOCS.device}, the routing weights on "
            f"{a_NK.device}; they must be on the same device"
        )
