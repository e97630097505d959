"""The CPU operator behind algorithm `winograd`, which `winograd.cpp` explains.

x_NCHW, weight_KOCHW with 3x3 kernels and routing_NK are float32; stride 1, one group, channels in multiples of 8.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops.constant import constant
from dynconv.layer.ops.library import Library
from dynconv.layer.ops.operator import Convolution, Operator

_FUNCTIONS = {"dynconv_winograd_forward": (8, 4), "dynconv_winograd_backward": (8, 7)}
library = Library(Path(__file__).with_name("winograd.cpp"), _FUNCTIONS, seconds=20)

DOMAIN = (
    "needs float32 on a CPU, 3x3 kernels, stride, dilation and groups 1, padding up to 2 and channels in multiples of 8"
)


def applies(geometry: Geometry) -> bool:
    """Whether the operator computes this convolution: what DOMAIN says."""
    g = geometry
    return (
        g.device == "cpu"
        and g.dtype == torch.float32
        and g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and g.padding in ((0, 0), (1, 1), (2, 2))
        and g.in_channels % 8 == g.out_channels % 8 == 0
        and min(g.out_size) >= 1
    )


@constant
def obstacle() -> str:
    """Why the operator, which would be used now, cannot be; empty if it can. Logs the first such reason."""
    return library.obstacle()


def best_tile(geometry: Geometry) -> tuple[int, float]:
    """The M of F(M, 3) expected to be fastest, 2 to 7, and its cost: multiplications of a large matrix product.

    Larger tiles need fewer multiplications, unless they stick out over the border. The two ways of mixing are those
    of winograd.cpp; 43 is what it costs to transform a number there and back, measured on a CPU with AVX2. Tiles of 7
    round worst (1.4e-5 of the output's standard deviation, 4e-6 for 6, where float32 itself has 3e-7), so they have to
    be faster by a fifth.
    """
    experts, in_channels, out_channels = geometry.experts, geometry.in_channels, geometry.out_channels

    def cost(tile: int) -> float:
        tiles = math.prod([-(-size // tile) for size in geometry.out_size])
        forward = min(experts * tiles, tiles + 4 + 2 * experts)
        backward = min(2 * experts * tiles, 2 * tiles + 12 * experts)
        multiply = (forward + backward) / 3 * in_channels * out_channels
        transform = 43 * tiles * (in_channels + out_channels)
        return (tile + 2) ** 2 * (multiply + transform) * (1.2 if tile == 7 else 1)

    best = 2
    for tile in range(3, 8):  # torch.compile does not know min(..., key=...)
        if cost(tile) < cost(best):
            best = tile
    return best, cost(best)


def _obstacle(geometry: Geometry, padding: int, tile: int) -> str:
    if not 2 <= tile <= 7:
        return f"tile must be 2 to 7, not {tile}"
    return "" if applies(geometry) else DOMAIN


def _shape(x: Tensor, weight: Tensor, padding: int, tile: int) -> tuple[int, ...]:
    batch, in_channels, height, width = x.shape
    experts, out_channels = weight.shape[:2]
    return tile, batch, height, width, in_channels, out_channels, experts, padding


winograd = Operator(
    "winograd",
    ("padding", "tile"),
    convolution=lambda padding, tile: Convolution((1, 1), (padding, padding)),
    obstacle=_obstacle,
)
winograd.register_library(library, lambda direction, _: f"dynconv_winograd_{direction}", _shape)
