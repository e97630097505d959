"""The shapes of one dynamic convolution: all that its cost depends on, and what `auto` chooses by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Geometry:
    """One dynamic convolution of a batch.

    Attributes:
        batch, in_channels, height, width: of the input.
        out_channels, experts, kernel: of the experts.
        stride, padding, dilation, groups: as `torch.nn.Conv2d`.
        dtype: in which it is computed.
        device: "cpu", "cuda", ...
        training: whether gradients will be asked for.
    """

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    experts: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    dtype: torch.dtype
    device: str
    training: bool

    @classmethod
    def of(
        cls, x_NCHW: Tensor, weight_KOCHW: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
    ) -> Geometry:
        """That of mixing the experts weight_KOCHW for x_NCHW, as it is computed: see `computed`."""
        batch, in_channels, height, width = x_NCHW.shape
        experts, out_channels, _, kernel_height, kernel_width = weight_KOCHW.shape
        return cls(
            batch, in_channels, height, width, out_channels, experts, (kernel_height, kernel_width),
            stride, padding, dilation, groups, x_NCHW.dtype, x_NCHW.device.type,
            torch.is_grad_enabled() and (x_NCHW.requires_grad or weight_KOCHW.requires_grad),
        ).computed()  # fmt: skip

    def computed(self) -> Geometry:
        """This one, or for strided 1x1 kernels without padding that of the same pixels at stride 1.

        oneDNN's own strided 1x1 convolution gives wrong weight gradients, or crashes, for fewer than 8 channels,
        channels last: https://github.com/uxlfoundation/oneDNN/issues/6035
        """
        if self.kernel != (1, 1) or self.padding != (0, 0) or self.stride == (1, 1):
            return self
        return replace(self, height=self.out_height, width=self.out_width, stride=(1, 1))

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.height + 2 * self.padding[0] - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + 2 * self.padding[1] - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1

    def taps_on_padding(self) -> tuple[list[int], list[int]]:
        """Rows and columns of the kernel that meet nothing but padding: there are some where a strided convolution's
        map is smaller than its kernel."""
        rows = self._taps_on_padding(0, self.height, self.out_height)
        return rows, self._taps_on_padding(1, self.width, self.out_width)

    def _taps_on_padding(self, axis: int, side: int, out_side: int) -> list[int]:
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        if side >= stride + dilation * (kernel - 1):
            return []  # as nearly always
        corners = range(-self.padding[axis], out_side * stride - self.padding[axis], stride)
        return [tap for tap in range(kernel) if not any(0 <= corner + tap * dilation < side for corner in corners)]
