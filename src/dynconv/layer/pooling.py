"""The average over the pixels of each channel: what the router sees.

Shape suffixes: N images, C channels, S any spatial dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.layer.ops import pixel_sum
from dynconv.layer.ops.operator import in_transform

_MIN_NUMBERS = 2**16
"""In smaller inputs, torch's conversion takes less time than calling an operator."""


def spatial_mean(x_NCS: Tensor) -> Tensor:
    """SpatialAveragePool: x [N, C, *size] -> [N, C], in float32, or float64 if x is.

    In bfloat16 the mean of a map would keep only three digits.
    """
    # Sums, because the gradient of torch's mean is a whole map in float32, and that of its sum a view of [N, C].
    if _by_operator(x_NCS):
        sums_NC = pixel_sum.pixel_sum(x_NCS)
    else:
        wide = torch.promote_types(x_NCS.dtype, torch.float32)
        sums_NC = x_NCS.sum(tuple(range(2, x_NCS.dim())), dtype=wide)
    return sums_NC / x_NCS.shape[2:].numel()


def _by_operator(x_NCS: Tensor) -> bool:
    """Whether it would convert a large map, outside what custom operators support and torch.compile does better."""
    return (
        pixel_sum.applies(x_NCS)
        and not torch.compiler.is_compiling()
        and x_NCS.numel() >= _MIN_NUMBERS
        and not in_transform()
        and pixel_sum.library.available()
    )
