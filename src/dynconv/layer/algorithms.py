"""The exact algorithms for the mixture O = sum_k a_k Conv_k(X), one registry entry each.

Convolution is linear in its kernel and in its input, so there is no need to compute the K convolutions one by one:

    kernel    mix one kernel per image, then one convolution with one group per image
    input     concatenate a_1 X, ..., a_K X along the channels, then one convolution from K*C to O channels
    output    one convolution from C to K*O channels, then the weighted sum of the K outputs
    unfold    mix one kernel per image, unfold X into patches, then one matrix product per image
    pixel     for each output pixel, one matrix product of the patch that it sees, without the padding, with the same
              part of all K kernels; then the weighted sum of the K outputs. For maps of a few pixels, where much of
              a kernel lies on padding
    fused     mix the kernels tile by tile where the tile is used: in a CPU's cache (ops/fused.cpp) or a GPU's
              registers (ops/fused_triton.py, by name only); 3x3 and 1x1, on a CPU any groups
    depthwise one group per channel: mix the kernels, and sum over their taps with vectors of channels
              (ops/depthwise.cpp); CPU
    winograd  Winograd's minimal filtering, also with mixing in the cache (ops/winograd.cpp); CPU, float32, 3x3

An entry says where its algorithm applies, how it computes, and from which features `choice.py` predicts its time. To
add an algorithm, register its function here. Without coefficients in choice.json, it can only be used by name.

Shape suffixes: N images, K experts, C input and O output channels, S one to three spatial dimensions, H x W two of
them, G groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import depthwise, fused, winograd
from dynconv.layer.ops.operator import in_forward_mode, in_transform

Compute = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


@dataclass(frozen=True)
class AlgorithmEntry:
    """One exact algorithm.

    Attributes:
        compute: x [N, C, *size], experts [K, O, C / groups, *kernel], routing weights [N, K] of any floating-point
            type, and their geometry -> [N, O, *out_size] in any layout, without the bias.
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
    pixels = g.out_pixels
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
    kernel, stride = math.prod(geometry.kernel), math.prod(geometry.stride)
    return *shape_features(geometry), math.log(kernel), math.log(stride)


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


def _convolve(x_NCS: Tensor, kernels_OCS: Tensor, g: Geometry, groups: int) -> Tensor:
    """torch's static convolution, with rows and columns exchanged where it is wrong.

    With AMX, oneDNN (torch 2.13) convolves bf16 wrongly to maps of a single column where the stride is not 1; it is
    right for maps of a single row. https://github.com/pytorch/pytorch/issues/169688
    """
    if g.dims == 2 and g.dtype == torch.bfloat16 and g.device == "cpu" and g.out_size[1] == 1 < max(g.stride):
        stride, padding, dilation = (side[::-1] for side in (g.stride, g.padding, g.dilation))
        return F.conv2d(x_NCS.mT, kernels_OCS.mT, None, stride, padding, dilation, groups).mT
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[g.dims]
    return convolve(x_NCS, kernels_OCS, None, g.stride, g.padding, g.dilation, groups)


@algorithm("kernel")
def _by_kernel(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCS, a_NK = _for_torch(weight_KOCS, a_NK, g)
    n, c, *size = x_NCS.shape
    _, o, *kernel = weight_KOCS.shape
    if n == 0:  # torch has no convolution with zero groups
        return _convolve(x_NCS, weight_KOCS[0], g, g.groups)
    mixed = (a_NK @ weight_KOCS.flatten(1)).view(n * o, *kernel)
    out = _convolve(x_NCS.reshape(1, n * c, *size), mixed, g, n * g.groups)
    return out.view(n, o, *out.shape[2:])


@algorithm("input")
def _by_input(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCS, a_NK = _for_torch(weight_KOCS, a_NK, g)
    ones = (1,) * g.dims
    n, c = x_NCS.shape[:2]
    k = len(weight_KOCS)
    if k == 1:
        scaled = x_NCS * a_NK.view(n, 1, *ones)
        return _convolve(scaled, weight_KOCS[0], g, g.groups)
    # The channels of a group are adjacent, and each group has K scaled copies of them. Building them as NHWC saves a
    # conversion.
    x_NSGC = x_NCS.movedim(1, -1).unflatten(-1, (g.groups, c // g.groups))
    scaled = x_NSGC.unsqueeze(-2) * a_NK.view(n, *ones, 1, k, 1)
    scaled_NCS = scaled.flatten(-3).movedim(-1, 1)
    kernels = weight_KOCS.transpose(0, 1).flatten(1, 2)
    return _convolve(scaled_NCS, kernels, g, g.groups)


@algorithm("output")
def _by_output(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCS, a_NK = _for_torch(weight_KOCS, a_NK, g)
    ones = (1,) * g.dims
    k, o = weight_KOCS.shape[:2]
    # A group's output channels are adjacent, so the K experts of a group must be adjacent, too.
    kernels = weight_KOCS.unflatten(1, (g.groups, o // g.groups)).transpose(0, 1).flatten(0, 2)
    out = _convolve(x_NCS, kernels, g, g.groups)
    out_NGKOS = out.unflatten(1, (g.groups, k, o // g.groups))
    return (a_NK.view(-1, 1, k, 1, *ones) * out_NGKOS).sum(2).flatten(1, 2)


def _unfold_obstacle(geometry: Geometry) -> str:
    return "needs one or two spatial dimensions" if geometry.dims == 3 else ""


@algorithm("unfold", obstacle=_unfold_obstacle)
def _by_unfold(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    weight_KOCS, a_NK = _for_torch(weight_KOCS, a_NK, g)
    n, o = x_NCS.shape[0], weight_KOCS.shape[1]
    if max(g.kernel) == max(g.stride) == 1 and max(g.padding) == 0:
        patches = x_NCS.flatten(2)
    elif g.dims == 1:  # as images of one row
        row = [(1, *g.kernel), (1, *g.dilation), (0, *g.padding), (1, *g.stride)]
        patches = F.unfold(x_NCS.unsqueeze(2), *row)
    else:
        patches = F.unfold(x_NCS, g.kernel, g.dilation, g.padding, g.stride)
    mixed = (a_NK @ weight_KOCS.flatten(1)).view(n * g.groups, o // g.groups, weight_KOCS[0, 0].numel())
    out = torch.bmm(mixed, patches.reshape(n * g.groups, mixed.shape[-1], math.prod(g.out_size)))
    return out.view(n, o, *g.out_size)


MOST_PIXELS = 256
"""The largest output map that `pixel` computes, which takes one matrix product per pixel."""

_MIN_IMAGES = 100


def _pixel_obstacle(geometry: Geometry) -> str:
    few = math.prod(geometry.out_size) <= MOST_PIXELS
    return "" if few and geometry.groups == 1 else f"needs an output of at most {MOST_PIXELS} pixels, and groups 1"


def _pixel_passed_over(geometry: Geometry) -> str:
    if geometry.device != "cpu":
        return "timed on CPUs only, so only by name: algorithm='pixel'"
    # As for the operators below: torch.export makes one program for all batch sizes.
    if not torch.compiler.is_exporting() and geometry.batch < _MIN_IMAGES:
        return "too few images in the batch for matrix products of one row per image"
    return ""


@algorithm("pixel", obstacle=_pixel_obstacle, passed_over=_pixel_passed_over)
def _by_pixel(x_NCS: Tensor, weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    n, (k, o) = x_NCS.shape[0], weight_KOCS.shape[:2]
    x_NSC, weight_KOSC = x_NCS.movedim(1, -1), weight_KOCS.movedim(2, -1)
    outputs = [x_NCS.new_empty(n, 0)]
    for pixel in itertools.product(*map(range, g.out_size)):
        seen, taps = g.seen_by(pixel)
        patches = x_NSC[:, *seen].flatten(1)
        outputs.append(F.linear(patches, weight_KOSC[:, :, *taps].reshape(k * o, patches.shape[1])))
    outputs_NLKO = torch.cat(outputs, 1).view(n, -1, k, o)
    mixed_NLO = (a_NK.view(n, 1, k, 1) * outputs_NLKO).sum(2).to(g.dtype)
    return mixed_NLO.view(n, *g.out_size, o).movedim(-1, 1)


UNTIMED = "not timed on a GPU yet, so only by name: algorithm='fused'"
"""Why `auto` passes over `fused` on CUDA."""

_MIN_PIXELS = 256


def _operator_obstacle(operator: ModuleType, geometry: Geometry) -> str:
    domain: str = operator.DOMAIN
    return "" if operator.applies(geometry) else domain


def _operator_passed_over(operator: ModuleType, geometry: Geometry) -> str:
    if geometry.device == "cuda":
        return UNTIMED
    # torch.export makes one program for all batch sizes, so the choice must not depend on them.
    if not torch.compiler.is_exporting() and geometry.batch * math.prod(geometry.out_size) < _MIN_PIXELS:
        return "too few pixels in the batch to pay for rearranging the experts"
    if in_transform():
        return "torch.func transforms and forward-mode derivatives do not support custom operators"
    unavailable: str = operator.obstacle()
    return unavailable


def _refuse_forward_mode(name: str) -> None:
    """torch would lose the derivative of a custom operator without a word."""
    if in_forward_mode():
        raise NotImplementedError(f"algorithm {name!r} has no forward-mode derivative; use 'auto'")


@algorithm("fused", obstacle=partial(_operator_obstacle, fused), passed_over=partial(_operator_passed_over, fused))
def _by_fused(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    _refuse_forward_mode("fused")
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
    _refuse_forward_mode("winograd")
    tile, _ = winograd.best_tile(g)
    return winograd.winograd(x_NCHW, weight_KOCHW, a_NK.float(), g.padding[0], tile)


@algorithm(
    "depthwise",
    obstacle=partial(_operator_obstacle, depthwise),
    passed_over=partial(_operator_passed_over, depthwise),
)
def _by_depthwise(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
    _refuse_forward_mode("depthwise")
    return depthwise.depthwise(x_NCHW, weight_KOCHW, a_NK.float(), *g.stride, *g.padding, *g.dilation)


def in_layout_of(x_NCS: Tensor, out_NCS: Tensor) -> Tensor:
    """`out` in the memory format of `x`, contiguous or channels_last; avoids memory_format, which vmap lacks.

    A map of one pixel or one channel can be both; its strides tell which is meant, as in torch. There is no
    channels_last for one spatial dimension.
    """
    channels = x_NCS.shape[1]
    if x_NCS.dim() > 3 and channels > 1 and x_NCS.stride(1) == 1 and x_NCS.stride(-1) >= channels:
        return out_NCS.movedim(1, -1).contiguous().movedim(-1, 1)
    return out_NCS.contiguous()


def _for_torch(weight_KOCS: Tensor, a_NK: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """Prepares the experts and routing weights for torch's own operations.

    Converts the routing weights to the input's type. On a CPU in bf16, sets the experts, and thereby their gradients,
    to zero where the kernel meets only padding: there, oneDNN's convolution (torch 2.13) leaves the weight gradient
    uninitialised.
    """
    a_NK = a_NK.to(g.dtype)
    if not g.training or g.device != "cpu" or g.dtype.itemsize >= 4:
        return weight_KOCS, a_NK
    on_padding = g.taps_on_padding()
    if not any(on_padding):
        return weight_KOCS, a_NK
    used = torch.ones(g.kernel, dtype=torch.bool, device=weight_KOCS.device)
    for axis, taps in enumerate(on_padding):
        used.movedim(axis, 0)[taps] = False
    return torch.where(used, weight_KOCS, 0.0), a_NK
