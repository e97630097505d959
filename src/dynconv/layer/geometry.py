"""The geometry of one dynamic convolution: everything that its cost and the choice of `auto` depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Pair = tuple[int, int]
"""Height, width."""


def pair(value: int | Sequence[int], name: str) -> Pair:
    """A height and a width: one number stands for both, two are kept.

    Raises:
        ValueError: `value` is neither one number nor two; the error names the argument `name`.
    """
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: needs one number, or two for height and width, not {tuple(value)}")
    return value[0], value[1]


def sides_of_padding(
    padding: int | Sequence[int] | str, kernel: Pair, stride: Pair, dilation: Pair
) -> tuple[int, int, int, int]:
    """The padding of `torch.nn.Conv2d`, in pixels on the left, right, top and bottom.

    Raises:
        ValueError: `padding` is negative, an unknown word, or 'same' with a stride other than 1.
    """
    if padding == "same":
        if stride != (1, 1):
            raise ValueError("padding: 'same' needs stride 1")
        # As in Conv2d, an odd total puts the extra pixel on the right and at the bottom.
        height, width = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return width // 2, width - width // 2, height // 2, height - height // 2
    if padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, str):
        raise ValueError(f"padding: {padding!r} is neither numbers nor 'same' nor 'valid'")
    height, width = pair(padding, "padding")
    if min(height, width) < 0:
        raise ValueError(f"padding: must be at least 0, not {padding}")
    return width, width, height, height


@dataclass(frozen=True)
class Geometry:
    """The geometry of one dynamic convolution of a batch.

    Attributes:
        batch, in_channels, height, width: dimensions of the input.
        out_channels, experts, kernel: dimensions of the experts.
        stride, padding, dilation, groups: as for `torch.nn.Conv2d`.
        dtype: the type of the input and the experts.
        device: "cpu", "cuda", ...
        training: whether gradients are needed.
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
        """The geometry for applying the experts weight_KOCHW to x_NCHW; see `computed`."""
        batch, in_channels, height, width = x_NCHW.shape
        experts, out_channels, _, kernel_height, kernel_width = weight_KOCHW.shape
        return cls(
            batch, in_channels, height, width, out_channels, experts, (kernel_height, kernel_width),
            stride, padding, dilation, groups, x_NCHW.dtype, x_NCHW.device.type,
            torch.is_grad_enabled() and (x_NCHW.requires_grad or weight_KOCHW.requires_grad),
        ).computed()  # fmt: skip

    def computed(self) -> Geometry:
        """This geometry; for strided 1x1 kernels without padding, the one with the same output pixels at stride 1.

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
        """Rows and columns of the kernel that meet only padding.

        They exist only if a strided convolution's map is smaller than its kernel.
        """
        rows = self._taps_on_padding(0, self.height, self.out_height)
        return rows, self._taps_on_padding(1, self.width, self.out_width)

    def _taps_on_padding(self, axis: int, side: int, out_side: int) -> list[int]:
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        if side >= stride + dilation * (kernel - 1):
            return []  # nearly always
        corners = range(-self.padding[axis], out_side * stride - self.padding[axis], stride)
        return [tap for tap in range(kernel) if not any(0 <= corner + tap * dilation < side for corner in corners)]
