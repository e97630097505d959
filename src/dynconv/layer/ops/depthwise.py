"""The CPU operator behind algorithm `depthwise`, which `depthwise.cpp` explains.

x_NCHW and weight_KC1HW are float32 or bfloat16, routing_NK is float32; one group per channel, as many output as input
channels, and any kernel, stride, padding and dilation.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops.constant import constant
from dynconv.layer.ops.library import Library
from dynconv.layer.ops.operator import Convolution, Operator

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_FUNCTIONS = {f"dynconv_depthwise_forward_{name}": (13, 4) for name in _TYPES.values()} | {
    f"dynconv_depthwise_backward_{name}": (13, 7) for name in _TYPES.values()
}
library = Library(Path(__file__).with_name("depthwise.cpp"), _FUNCTIONS, seconds=3)

DOMAIN = "needs float32 or bfloat16 on a CPU, two spatial dimensions, and one group for each input and output channel"


def applies(geometry: Geometry) -> bool:
    """Whether the operator computes this convolution: what DOMAIN says."""
    g = geometry
    return (
        g.device == "cpu"
        and g.dtype in _TYPES
        and g.dims == 2
        and g.groups == g.in_channels == g.out_channels
        and min(g.out_size) >= 1
    )


@constant
def obstacle() -> str:
    """Why the operator, which would be used now, cannot be; empty if it can. Logs the first such reason."""
    return library.obstacle()


def _shape(x: Tensor, weight: Tensor, *integers: int) -> tuple[int, ...]:
    batch, channels, height, width = x.shape
    return batch, height, width, channels, weight.shape[0], *weight.shape[3:], *integers


depthwise = Operator(
    "depthwise",
    ("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w"),
    convolution=lambda *n: Convolution((n[0], n[1]), (n[2], n[3]), (n[4], n[5])),
    obstacle=lambda geometry, *_: "" if applies(geometry) else DOMAIN,
)
depthwise.register_library(library, lambda direction, dtype: f"dynconv_depthwise_{direction}_{_TYPES[dtype]}", _shape)
