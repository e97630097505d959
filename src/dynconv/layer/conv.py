"""`DynamicConv2d`: K expert convolutions and the router that mixes them per image.

    a = g(SpatialAveragePool(X) W),    O = a_1 Conv_1(X) + ... + a_K Conv_K(X)

Known as conditionally parameterised convolution (Yang et al. 2019, https://arxiv.org/abs/1904.04971) and as dynamic
convolution (Chen et al. 2020, https://arxiv.org/abs/1912.03458).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.layer import choice
from dynconv.layer.geometry import Geometry, Pair, pair, sides_of_padding
from dynconv.layer.mixing import check_algorithm, mix_convolutions
from dynconv.layer.routing import Router

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class DynamicConv2d(nn.Module):
    """A convolution whose kernel is mixed from K experts for each image: x [N, C, H, W] -> [N, O, H', W'].

    Like `Conv2d`, it also takes one image without a batch dimension: [C, H, W] -> [O, H', W'].

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            for `torch.nn.Conv2d`. The router sees the input before padding.
        experts: K >= 1.
        router_hidden, gate, temperature: see `Router`.
        algorithm: how to compute the mixture, see `dynconv.layer.algorithms`; the results agree up to rounding.

    Raises:
        ValueError: an argument has an invalid value; the error names the argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        experts: int = 4,
        router_hidden: int = 0,
        gate: str = "softmax",
        temperature: float = 1.0,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups, "experts": experts}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}: must be at least 1, not {count}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: {groups} does not divide {in_channels} and {out_channels} channels")
        if padding_mode not in get_args(PaddingMode):
            raise ValueError(f"padding_mode: {padding_mode!r} is none of {', '.join(get_args(PaddingMode))}")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.stride, self.dilation, self.groups = pair(stride, "stride"), pair(dilation, "dilation"), groups
        for name, sides in {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}.items():
            if min(pair(sides, name)) < 1:
                raise ValueError(f"{name}: must be at least 1, not {sides}")
        check_algorithm(algorithm)
        self.padding = sides_of_padding(padding, self.kernel_size, self.stride, self.dilation)
        self.padding_mode: PaddingMode = padding_mode
        self.algorithm = algorithm
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        kernels = (experts, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(kernels, **options))
        self.bias = nn.Parameter(torch.empty(experts, out_channels, **options)) if bias else None
        self.router = Router(in_channels, experts, router_hidden, gate, temperature).to(**options)
        self.reset_experts()

    def _explicit_padding(self) -> tuple[Pair, int, int]:
        """The padding that the convolution does itself, and the number of rows and columns added before it."""
        left, right, top, bottom = self.padding
        if self.padding_mode == "zeros" and (left, top) == (right, bottom):
            return (top, left), 0, 0
        return (0, 0), top + bottom, left + right

    @torch.no_grad()
    def reset_experts(self) -> None:
        """Draws each expert as `torch.nn.Conv2d` draws its kernel: uniformly, scaled by the fan-in of one expert."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def add_identity(self) -> None:
        """Makes the first C output channels of every expert the identity plus that expert's own noise.

        The noise is needed because equal experts get equal gradients and stay equal.

        Raises:
            ValueError: the layer has more than one group.
        """
        if self.groups != 1:
            raise ValueError("add_identity: needs groups = 1")
        channels = torch.arange(min(self.weight.shape[1:3]), device=self.weight.device)
        self.weight[:, channels] *= 0.5
        self.weight[:, channels, channels, self.weight.shape[3] // 2, self.weight.shape[4] // 2] += 1.0

    @classmethod
    @torch.no_grad()
    def from_conv(cls, conv: nn.Conv2d, experts: int = 4, noise: float = 0.1, **options: Any) -> DynamicConv2d:
        """A dynamic layer whose output initially equals that of `conv`, up to rounding, and can diverge in training.

        The router starts at exactly a = 1/K. Each expert is conv's kernel plus its own deviation; the deviations sum to
        zero, so they cancel in the output while each routing weight has its own gradient. What is frozen in `conv`
        stays frozen: the experts and the router if its kernel is, the biases if its bias is.

        Args:
            conv: provides the geometry, the kernel, the bias, the device and the type.
            experts: K.
            noise: standard deviation of the deviations, relative to that of the kernel; for a (nearly) constant kernel,
                relative to its magnitude; for a zero kernel, relative to that of a new `Conv2d`.
            options: router_hidden, gate, temperature, algorithm.
        """
        kernel_size, stride, dilation = (
            pair(getattr(conv, name), name) for name in ("kernel_size", "stride", "dilation")
        )
        padding = conv.padding if isinstance(conv.padding, str) else pair(conv.padding, "padding")
        layer = cls(
            conv.in_channels, conv.out_channels, kernel_size, stride, padding, dilation, conv.groups,
            conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
            experts=experts, **options,
        )  # fmt: skip
        deviations = torch.randn_like(layer.weight) * (noise * _spread(conv.weight))
        layer.weight.copy_(conv.weight + deviations - deviations.mean(0))
        if layer.bias is not None and conv.bias is not None:
            layer.bias.copy_(conv.bias.expand_as(layer.bias))
        nn.init.zeros_(layer.router.linear.weight)
        for parameter in (layer.weight, *layer.router.parameters()):
            parameter.requires_grad_(conv.weight.requires_grad)
        if layer.bias is not None and conv.bias is not None:
            layer.bias.requires_grad_(conv.bias.requires_grad)
        return layer

    @torch.no_grad()
    def collapse(self) -> nn.Conv2d:
        """The single convolution that is equivalent to this layer if its routing weights do not depend on the image.

        Raises:
            ValueError: the routing weights depend on the image: the router's last layer is not zero, and K > 1 or the
                gate does not declare that its weights sum to one.
        """
        always_one = self.weight.shape[0] == 1 and self.router.sums_to_one
        if not always_one and self.router.linear.weight.count_nonzero():
            raise ValueError("collapse: the routing depends on the image, so there is no one convolution")
        weight = self.weight
        a_1K = self.routing_weights(weight.new_zeros(1, weight.shape[2] * self.groups, 1, 1)).to(weight.dtype)
        _, out_channels, channels, *_ = weight.shape
        left, right, top, bottom = self.padding
        conv = nn.Conv2d(
            channels * self.groups, out_channels, self.kernel_size, self.stride,
            (top, left) if (top, left) == (bottom, right) else "same", self.dilation, self.groups,
            self.bias is not None, self.padding_mode, weight.device, weight.dtype,
        )  # fmt: skip
        conv.weight.copy_(torch.einsum("k,kochw->ochw", a_1K[0], weight))
        if conv.bias is not None and self.bias is not None:
            conv.bias.copy_(a_1K[0] @ self.bias)
        return conv

    def routing_weights(self, x: Tensor) -> Tensor:
        """The routing weights a: [N, K] for x [N, C, H, W], or [K] for x [C, H, W]."""
        routing: Tensor = self.router(x) if x.dim() == 4 else self.router(x[None])[0]
        return routing

    def forward(self, x: Tensor, routing_weights: Tensor | None = None) -> Tensor:
        """Computes sum_k a_k Conv_k(x): [N, C, H, W] -> [N, O, H', W'], or [C, H, W] -> [O, H', W'].

        Args:
            x: input.
            routing_weights: a, [N, K], or [K] without a batch dimension; by default, those of the layer's own router.

        Raises:
            ValueError: x has another number of dimensions, or shapes do not match.
        """
        if x.dim() == 3:
            return self.forward(x[None], None if routing_weights is None else routing_weights[None])[0]
        if x.dim() != 4:
            raise ValueError(f"x: needs [N, C, H, W] or [C, H, W], not {list(x.shape)}")
        a_NK = self.routing_weights(x) if routing_weights is None else routing_weights
        padding, *extra = self._explicit_padding()
        if any(extra):
            x = F.pad(x, self.padding, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        return mix_convolutions(
            x, self.weight, a_NK, self.bias,
            stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups, algorithm=self.algorithm,
        )  # fmt: skip

    def explain_algorithm(self, shape: Sequence[int], training: bool | None = None) -> choice.Explanation:
        """What `auto` takes for an input of this shape, and the predicted times; print the result to see a table.

        Under autocast, the answer applies to autocast's type.

        Args:
            shape: shape of x, (N, C, H, W).
            training: with or without gradients; by default `layer.training`.

        Raises:
            ValueError: shape does not have four dimensions, or has another number of channels.
        """
        k, out_channels, channels, *_ = self.weight.shape
        if len(shape) != 4 or shape[1] != channels * self.groups:
            raise ValueError(f"shape: needs (N, {channels * self.groups}, H, W), not {tuple(shape)}")
        batch, _, height, width = shape
        padding, extra_height, extra_width = self._explicit_padding()
        device = self.weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        geometry = Geometry(
            batch, shape[1], height + extra_height, width + extra_width, out_channels, k, self.kernel_size,
            self.stride, padding, self.dilation, self.groups, dtype, device,
            self.training if training is None else training,
        )  # fmt: skip
        return choice.explain(geometry.computed())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to(memory_format=torch.channels_last)` fails on five dimensions, so the experts are passed as K * O kernels.
        def as_kernels(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]) if tensor.dim() == 5 else fn(tensor)

        return super()._apply(as_kernels, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        k, o, c, *kernel = self.weight.shape
        return (
            f"{c * self.groups}, {o}, kernel_size={tuple(kernel)}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode!r}, experts={k}, algorithm={self.algorithm!r}"
        )


def _spread(weight: Tensor) -> Tensor:
    """The standard deviation that `from_conv` multiplies its noise by; positive for every kernel.

    If a kernel's own deviation is below a tenth of its mean absolute weight, the kernel is nearly constant, and noise
    of that size could vanish in rounding. No branch depends on a value, because meta tensors have none.
    """
    magnitude = weight.abs().mean()
    spread = weight.std() if weight.numel() > 1 else torch.zeros_like(magnitude)
    spread = torch.where(spread > 0.1 * magnitude, spread, magnitude)
    return torch.where(spread > 0, spread, 1 / math.sqrt(3 * weight[0].numel()))
