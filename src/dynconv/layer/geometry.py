"""The geometry of one dynamic convolution: everything that its cost and the choice of `auto` depend on.

Shape suffixes: N images, K experts, C input and O output channels, S one to three spatial dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Sizes = tuple[int, ...]
"""One number per spatial dimension, in the order of the input's: for images height, width."""

AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
"""What the spatial dimensions are called, by their number."""


def sizes(value: int | Sequence[int], dims: int, name: str) -> Sizes:
    """One number per spatial dimension: a single one stands for all.

    Raises:
        ValueError: `value` has another length; the error names the argument `name`.
    """
    if isinstance(value, int):
        return (value,) * dims
    if len(value) != dims:
        needed = {1: "one number", 2: "one number, or two for height and width"}.get(dims, f"one number, or {dims}")
        raise ValueError(f"{name}: needs {needed}, not {tuple(value)}")
    return tuple(value)


def sides_of_padding(padding: int | Sequence[int] | str, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    """The padding of torch.nn's convolutions as `torch.nn.functional.pad` takes it.

    Returns:
        The pixels before and after each dimension, the last dimension first: for images left, right, top and bottom.

    Raises:
        ValueError: `padding` is negative, an unknown word, or 'same' with a stride other than 1.
    """
    if padding == "same":
        if max(stride) > 1:
            raise ValueError("padding: 'same' needs stride 1")
        # As in Conv2d, an odd total puts the extra pixel on the right and at the bottom.
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    elif padding == "valid":
        sides = [(0, 0)] * len(kernel)
    elif isinstance(padding, str):
        raise ValueError(f"padding: {padding!r} is neither numbers nor 'same' nor 'valid'")
    else:
        sides = [(side, side) for side in sizes(padding, len(kernel), "padding")]
        if min(sides) < (0, 0):
            raise ValueError(f"padding: must be at least 0, not {padding}")
    return tuple(side for pair in reversed(sides) for side in pair)


def places_of_experts(
    kernel_size: Sizes,
    experts: int,
    own_sizes: Sequence[int | Sizes] | None,
    own_dilations: Sequence[int | Sizes] | None,
) -> list[tuple[slice, ...]]:
    """Where each expert's own kernel lies in one of kernel_size: in the middle.

    Args:
        own_sizes, own_dilations: for each expert; by default kernel_size, and 1.

    Raises:
        ValueError: not one entry per expert, or an expert that has no place in the middle; names the argument.
    """
    for name, given in {"expert_kernel_sizes": own_sizes, "expert_dilations": own_dilations}.items():
        if given is not None and len(given) != experts:
            raise ValueError(f"{name}: has {len(given)} entries, needs {experts}, one per expert")
    places = []
    for k in range(experts):
        own = sizes(own_sizes[k] if own_sizes else kernel_size, len(kernel_size), "expert_kernel_sizes")
        steps = sizes(own_dilations[k] if own_dilations else 1, len(kernel_size), "expert_dilations")
        spans = [step * (size - 1) + 1 for size, step in zip(own, steps, strict=True)]
        beyond = [whole - span for whole, span in zip(kernel_size, spans, strict=True)]
        if min(*own, *steps) < 1 or min(beyond) < 0 or any(rest % 2 for rest in beyond):
            raise ValueError(
                f"expert_kernel_sizes: expert {k + 1}, {own} with dilation {steps}, spans {tuple(spans)}, which has no "
                f"place in the middle of kernel_size {kernel_size}"
            )
        places.append(
            tuple(
                slice(rest // 2, rest // 2 + span, step) for rest, span, step in zip(beyond, spans, steps, strict=True)
            )
        )
    return places


@dataclass(frozen=True)
class Geometry:
    """The geometry of one dynamic convolution of a batch.

    Attributes:
        batch, in_channels, size: dimensions of the input.
        out_channels, experts, kernel: dimensions of the experts.
        stride, padding, dilation, groups: as for torch.nn's convolutions.
        dtype: the type of the input and the experts.
        device: "cpu", "cuda", ...
        training: whether gradients are needed.
    """

    batch: int
    in_channels: int
    size: Sizes
    out_channels: int
    experts: int
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    dtype: torch.dtype
    device: str
    training: bool

    @classmethod
    def of(
        cls, x_NCS: Tensor, weight_KOCS: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
    ) -> Geometry:
        """The geometry for applying the experts to x; see `computed`."""
        batch, in_channels, *size = x_NCS.shape
        experts, out_channels, _, *kernel = weight_KOCS.shape
        return cls(
            batch, in_channels, tuple(size), out_channels, experts, tuple(kernel),
            stride, padding, dilation, groups, x_NCS.dtype, x_NCS.device.type,
            torch.is_grad_enabled() and (x_NCS.requires_grad or weight_KOCS.requires_grad),
        ).computed()  # fmt: skip

    def computed(self) -> Geometry:
        """This geometry; for strided 1x1 kernels without padding, the one with the same output pixels at stride 1.

        oneDNN's own strided 1x1 convolution gives wrong weight gradients, or crashes, for fewer than 8 channels,
        channels last: https://github.com/uxlfoundation/oneDNN/issues/6035
        """
        if max(self.kernel) > 1 or max(self.padding) > 0 or max(self.stride) == 1:
            return self
        return replace(self, size=self.out_size, stride=(1,) * self.dims)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions, 1 to 3."""
        return len(self.kernel)

    @property
    def out_size(self) -> Sizes:
        """Size of the output."""
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def out_pixels(self) -> int:
        """Number of pixels of an output map, at least 1."""
        return math.prod([max(1, size) for size in self.out_size])

    def seen_by(self, pixel: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What of the input an output pixel sees, and the kernel's taps that meet it; the others meet padding.

        Returns:
            One slice per dimension of the input, and one of the kernel; they select equally many places.
        """
        seen, taps = [], []
        for axis, place in enumerate(pixel):
            corner = place * self.stride[axis] - self.padding[axis]
            step, size = self.dilation[axis], self.size[axis]
            inside = [tap for tap in range(self.kernel[axis]) if 0 <= corner + tap * step < size]
            first, last = (inside[0], inside[-1]) if inside else (0, -1)
            taps.append(slice(first, last + 1))
            seen.append(slice(corner + first * step, corner + last * step + 1, step) if inside else slice(0, 0))
        return tuple(seen), tuple(taps)

    def taps_on_padding(self) -> list[list[int]]:
        """For each dimension, the taps of the kernel that meet only padding.

        They exist only if a strided convolution's map is smaller than its kernel.
        """
        return [self._taps_on_padding(axis) for axis in range(self.dims)]

    def _taps_on_padding(self, axis: int) -> list[int]:
        size, kernel, stride = self.size[axis], self.kernel[axis], self.stride[axis]
        padding, dilation = self.padding[axis], self.dilation[axis]
        if size >= stride + dilation * (kernel - 1):
            return []  # nearly always
        corners = range(-padding, self.out_size[axis] * stride - padding, stride)
        return [tap for tap in range(kernel) if not any(0 <= corner + tap * dilation < size for corner in corners)]
