"""The exact algorithms for the mixture O = sum_k a_k Conv_k(X), one registry entry each.

Convolution is linear in its kernel and in its input, so there is no need to compute the K convolutions one by one:

    kernel    mix one kernel per image, then one convolution with one group per image
    input     concatenate a_1 X, ..., a_K X along the channels, then one convolution from K*C to O channels
    output    one convolution from C to K*O channels, then the weighted sum of the K outputs
    unfold    mix one kernel per image, unfold X into patches, then one matrix product per image
    fused     mix the kernels tile by tile where the tile is used: in a CPU's cache (ops/fused.cpp) or a GPU's
              registers (ops/fused_triton.py, by name only); 3x3 and 1x1
    winograd  Winograd's minimal filtering, also with mixing in the cache (ops/winograd.cpp); CPU, float32, 3x3

An entry says where its algorithm applies, how it computes, and from which features `choice.py` predicts its time. To
add an algorithm, register its function here. Without coefficients in choice.json, it can only be used by name.

Shape suffixes: N images, K experts, C input and O output channels, H x W spatial, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import fused, winograd

Compute = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


@dataclass(frozen=True)
class AlgorithmEntry:
    """One exact algorithm.

    Attributes:
        compute: x [N, C, H, W], experts [K, O, C / groups, height, width], routing weights [N, K] of any floating-point
            type, and their geometry -> [N, O, H', W'], without the bias.
        obstacle: why the algorithm cannot compute a geometry, as the end of "algorithm 'name' ..."; empty if it can.
        passed_over: why `auto` skips it although it can compute the geometry; empty if `auto` considers it.
        features: the features that the model in choice.py multiplies by its coefficients.
    """

    compute: Compute
    obstacle: Callable[[Geometry], str]
    passed_over: Callable[[Geometry], str]
    features: Callable[[Geometry], tuple[float, ...]]


ALGORITHMS: dict[str, AlgorithmEntry] = {}
"""The registered algorithms by name. `auto` is not among them: it chooses one."""


def _nothing(geometry: Geometry) -> str:
    return ""


def shape_features(geometry: Geometry) -> tuple[float, ...]:
    """Features that do not depend on the kernel: 1, logs of K, C, O and output pixels L, and two for mixing."""
    g = geometry
    pixels = max(1, g.out_height) * max(1, g.out_width)
    return (
        1.0,
        math.log(g.experts),
        math.log(g.in_channels / g.groups),
        math.log(g.out_channels),
        math.log(pixels),
        math.log(g.experts) * math.log(pixels),
        math.log(1 + _MIXING * g.experts / pixels),
    )


def convolution_features(geometry: Geometry) -> tuple[float, ...]:
    """`shape_features`, then logs of the kernel's area and of the stride's."""
    kernel, stride = geometry.kernel, geometry.stride
    return *shape_features(geometry), math.log(kernel[0] * kernel[1]), math.log(stride[0] * stride[1])


_MIXING = 3.0  # a multiply-add takes about three times as long in mixing as in a convolution


def algorithm(
    name: str,
    *,
    obstacle: Callable[[Geometry], str] = _nothing,
    passed_over: Callable[[Geometry], str] = _nothing,
    features: Callable[[Geometry], tuple[float, ...]] = convolution_features,
) -> Callable[[Compute], Compute]:
    """Registers the decorated function as the algorithm `name`; see `AlgorithmEntry` for the arguments."""

    def register(compute: Compute) -> Compute:
        ALGORITHMS[name] = AlgorithmEntry(compute, obstacle, passed_over, features)
        return compute

    return register


@algorithm("kernel")
def _by_kernel(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCHW, a_NK = _for_torch(weight_KOCHW, a_NK, g)
    n, c, h, w = x_NCHW.shape
    _, o, *kernel = weight_KOCHW.shape
    if n == 0:  # torch has no convolution with zero groups
        return F.conv2d(x_NCHW, weight_KOCHW[0], None, g.stride, g.padding, g.dilation, g.groups)
    mixed = (a_NK @ weight_KOCHW.flatten(1)).view(n * o, *kernel)
    out = F.conv2d(x_NCHW.reshape(1, n * c, h, w), mixed, None, g.stride, g.padding, g.dilation, n * g.groups)
    return in_layout_of(x_NCHW, out.view(n, o, *out.shape[2:]))


@algorithm("input")
def _by_input(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCHW, a_NK = _for_torch(weight_KOCHW, a_NK, g)
    k, c = weight_KOCHW.shape[0], x_NCHW.shape[1]
    if k == 1:
        scaled = x_NCHW * a_NK[:, :, None, None]
        return F.conv2d(scaled, weight_KOCHW[0], None, g.stride, g.padding, g.dilation, g.groups)
    # The channels of a group are adjacent, and each group has K scaled copies of them. Building them as NHWC saves a
    # conversion.
    x_NHWGC = x_NCHW.permute(0, 2, 3, 1).unflatten(3, (g.groups, c // g.groups))
    scaled = x_NHWGC[:, :, :, :, None] * a_NK[:, None, None, None, :, None]
    scaled_NCHW = scaled.flatten(3).permute(0, 3, 1, 2)
    kernels = weight_KOCHW.transpose(0, 1).flatten(1, 2)
    return F.conv2d(scaled_NCHW, kernels, None, g.stride, g.padding, g.dilation, g.groups)


@algorithm("output")
def _by_output(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCHW, a_NK = _for_torch(weight_KOCHW, a_NK, g)
    k, o = weight_KOCHW.shape[:2]
    # A group's output channels are adjacent, so the K experts of a group must be adjacent, too.
    kernels = weight_KOCHW.unflatten(1, (g.groups, o // g.groups)).transpose(0, 1).flatten(0, 2)
    out = F.conv2d(x_NCHW, kernels, None, g.stride, g.padding, g.dilation, g.groups)
    out_NGKOHW = out.unflatten(1, (g.groups, k, o // g.groups))
    return in_layout_of(x_NCHW, (a_NK[:, None, :, None, None, None] * out_NGKOHW).sum(2).flatten(1, 2))


@algorithm("unfold")
def _by_unfold(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCHW, a_NK = _for_torch(weight_KOCHW, a_NK, g)
    n, o = x_NCHW.shape[0], weight_KOCHW.shape[1]
    if g.kernel == g.stride == (1, 1) and g.padding == (0, 0):
        patches = x_NCHW.flatten(2)
    else:
        patches = F.unfold(x_NCHW, g.kernel, g.dilation, g.padding, g.stride)
    mixed = (a_NK @ weight_KOCHW.flatten(1)).view(n * g.groups, o // g.groups, weight_KOCHW[0, 0].numel())
    out = torch.bmm(mixed, patches.reshape(n * g.groups, mixed.shape[-1], g.out_height * g.out_width))
    return in_layout_of(x_NCHW, out.view(n, o, g.out_height, g.out_width))


UNTIMED = "not timed on a GPU yet, so only by name: algorithm='fused'"
"""Why `auto` passes over `fused` on CUDA."""

_MIN_PIXELS = 256


def _operator_obstacle(operator: ModuleType, geometry: Geometry) -> str:
    domain: str = operator.DOMAIN
    return "" if operator.applies(geometry) else domain


def _operator_passed_over(operator: ModuleType, geometry: Geometry) -> str:
    if geometry.device == "cuda":
        return UNTIMED
    if geometry.batch * geometry.out_height * geometry.out_width < _MIN_PIXELS:
        return "too few pixels in the batch to pay for rearranging the experts"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms do not support custom operators"
    unavailable: str = operator.obstacle()
    return unavailable


@algorithm("fused", obstacle=partial(_operator_obstacle, fused), passed_over=partial(_operator_passed_over, fused))
def _by_fused(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    # Mixing is done in float32: rounding a routing weight to 8 bits would shift an image's whole kernel.
    return fused.fused(x_NCHW, weight_KOCHW, a_NK.float(), g.stride[0], g.padding[0])


def _winograd_features(geometry: Geometry) -> tuple[float, ...]:
    return *shape_features(geometry), math.log(winograd.best_tile(geometry)[1])


@algorithm(
    "winograd",
    obstacle=partial(_operator_obstacle, winograd),
    passed_over=partial(_operator_passed_over, winograd),
    features=_winograd_features,
)
def _by_winograd(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    tile, _ = winograd.best_tile(g)
    return winograd.winograd(x_NCHW, weight_KOCHW, a_NK.float(), g.padding[0], tile)


def in_layout_of(x_NCHW: Tensor, out_NCHW: Tensor) -> Tensor:
    """`out` in the memory format of `x`, contiguous or channels_last; avoids memory_format, which vmap lacks."""
    if x_NCHW.shape[1] > 1 and x_NCHW.stride(1) == 1:
        return out_NCHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return out_NCHW.contiguous()


def _for_torch(weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """Prepares the experts and routing weights for torch's own operations.

    Converts the routing weights to the input's type. On a CPU in bf16, sets the experts, and thereby their gradients,
    to zero where the kernel meets only padding: there, oneDNN's convolution (torch 2.13) leaves the weight gradient
    uninitialised.
    """
    a_NK = a_NK.to(g.dtype)
    if not g.training or g.device != "cpu" or g.dtype.itemsize >= 4:
        return weight_KOCHW, a_NK
    rows, columns = g.taps_on_padding()
    if not rows and not columns:
        return weight_KOCHW, a_NK
    height, width = g.kernel
    used = [[i not in rows and j not in columns for j in range(width)] for i in range(height)]
    return torch.where(torch.tensor(used, device=weight_KOCHW.device), weight_KOCHW, 0.0), a_NK
