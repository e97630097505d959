"""The operator behind algorithm `fused`, which mixes the experts tile by tile where the tile is used.

`fused.cpp` explains the algorithm for a CPU, `fused_triton.py` for a GPU. x_NCHW and weight_KOCHW are float32 or
bfloat16, on a GPU also float16, routing_NK is float32; kernels of 1x1 or 3x3, stride 1 or 2; on a GPU one group.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import processor
from dynconv.layer.ops.constant import constant
from dynconv.layer.ops.library import Library
from dynconv.layer.ops.operator import Convolution, Operator

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_GPU_TYPES = (*_TYPES, torch.float16)
_FUNCTIONS = {f"dynconv_fused_forward_{name}": (10, 4) for name in _TYPES.values()} | {
    f"dynconv_fused_backward_{name}": (10, 7) for name in _TYPES.values()
}
library = Library(Path(__file__).with_name("fused.cpp"), _FUNCTIONS, seconds=6)

DOMAIN = (
    "needs float32 or bfloat16 on a CPU, or those or float16 on CUDA, kernels of 1x1 or 3x3, one stride of 1 or 2 for "
    "both sides, dilation 1, padding below the kernel's side, and on CUDA groups 1"
)


def applies(geometry: Geometry) -> bool:
    """Whether the operator computes this convolution: what DOMAIN says."""
    g = geometry
    return (
        ((g.device == "cpu" and g.dtype in _TYPES) or (g.device == "cuda" and g.dtype in _GPU_TYPES))
        and g.kernel in ((1, 1), (3, 3))
        and g.stride in ((1, 1), (2, 2))
        and g.dilation == (1, 1)
        and (g.groups == 1 or (g.device == "cpu" and g.groups >= 1 and g.out_channels % g.groups == 0))
        and g.padding[0] == g.padding[1]
        and 0 <= g.padding[0] < g.kernel[0]
        and min(g.out_size) >= 1
    )


def status() -> str:
    """One line for people: whether the CPU's operator can be used; where there is a GPU, the same of its own."""
    if not torch.cuda.is_available():
        return library.status()
    try:
        found = f"with Triton {_triton().triton.__version__}, not timed yet"
    except RuntimeError as reason:
        found = str(reason)
    return f"{library.status()}; on CUDA: {found}"


@constant
def obstacle() -> str:
    """Why the CPU's operator, which would be used now, cannot be; empty if it can. Logs the first such reason."""
    return library.obstacle()


def by_matrix_unit(geometry: Geometry) -> bool:
    """Whether the CPU's operator multiplies on the processor's matrix unit (AMX), for bf16 and where it `applies`."""
    return geometry.device == "cpu" and geometry.stride == (1, 1) and geometry.groups == 1 and _has_matrix_unit()


@constant
@functools.cache
def _has_matrix_unit() -> bool:
    return {"amx_tile", "amx_bf16", "avx512_bf16"} <= processor.instruction_sets()


def _triton() -> ModuleType:
    """The GPU's kernels, imported late: only CUDA builds of torch bring Triton along."""
    try:
        from dynconv.layer.ops import fused_triton
    except ImportError as error:
        raise RuntimeError(f"the fused operator is not available on CUDA: {error} (pip install triton)") from error
    return fused_triton


def _shape(x: Tensor, weight: Tensor, *integers: int) -> tuple[int, ...]:
    batch, in_channels, height, width = x.shape
    experts, out_channels, depth, side, _ = weight.shape
    return batch, height, width, in_channels, out_channels, in_channels // depth, experts, side, *integers


fused = Operator(
    "fused",
    ("stride", "padding"),
    convolution=lambda stride, padding: Convolution((stride, stride), (padding, padding)),
    obstacle=lambda geometry, *_: "" if applies(geometry) else DOMAIN,
)
fused.register_library(library, lambda direction, dtype: f"dynconv_fused_{direction}_{_TYPES[dtype]}", _shape)
fused.register_kernel(
    "cuda",
    lambda *inputs: _triton().forward(*inputs),
    lambda *inputs, **needed: _triton().gradients(*inputs, **needed),
)
