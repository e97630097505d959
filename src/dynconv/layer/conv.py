"""`DynamicConv1d`, `DynamicConv2d`, `DynamicConv3d`: K expert convolutions and the router that mixes them per sample.

    a = g(SpatialAveragePool(X) W),    O = a_1 Conv_1(X) + ... + a_K Conv_K(X)

Known as conditionally parameterised convolution (Yang et al. 2019, https://arxiv.org/abs/1904.04971) and as dynamic
convolution (Chen et al. 2020, https://arxiv.org/abs/1912.03458).

One class does the work for any number of spatial dimensions, so this file is longer than most.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.layer import choice, static
from dynconv.layer.geometry import AXES, Geometry, Sizes, places_of_experts, sides_of_padding, sizes
from dynconv.layer.mixing import check_algorithm, mix_convolutions
from dynconv.layer.routing import Gate, Router

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class DynamicConv(nn.Module):
    """The common part of the three layers; use `DynamicConv1d`, `DynamicConv2d` or `DynamicConv3d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            for torch.nn's convolution of as many dimensions. The router sees the input before padding.
        experts: K >= 1.
        expert_kernel_sizes, expert_dilations: the size and the dilation of each expert's own kernel, which lies in the
            middle of one of kernel_size; by default, every expert fills it. The cost is that of kernel_size.
        router_hidden, gate, temperature: see `Router`.
        algorithm: how to compute the mixture, see `dynconv.layer.algorithms`; the results agree up to rounding.

    Attributes:
        weight: the experts' kernels, [K, O, C / groups, *kernel_size].
        taps: which weights belong to an expert's kernel, as 0 and 1, [K, 1, 1, *kernel_size]; None if all do.
        bias: the experts' biases, [K, O], or None.
        router: the `Router`.
        in_channels, ..., algorithm: the arguments. As in torch, kernel_size, stride, dilation and padding (unless a
            word) have one number per dimension.

    Raises:
        ValueError: an argument has an invalid value; the error names the argument.
    """

    static_type: ClassVar[type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]
    """torch.nn's convolution of as many dimensions."""
    dims: ClassVar[int]
    """Number of spatial dimensions."""
    taps: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sizes,
        stride: int | Sizes = 1,
        padding: int | Sizes | str = 0,
        dilation: int | Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        experts: int = 4,
        expert_kernel_sizes: Sequence[int | Sizes] | None = None,
        expert_dilations: Sequence[int | Sizes] | None = None,
        router_hidden: int = 0,
        gate: str | Gate | Callable[[Tensor], Tensor] = "softmax",
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
        self.in_channels, self.out_channels, self.groups, self.experts = in_channels, out_channels, groups, experts
        self.kernel_size = sizes(kernel_size, self.dims, "kernel_size")
        self.stride, self.dilation = sizes(stride, self.dims, "stride"), sizes(dilation, self.dims, "dilation")
        for name, given in {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}.items():
            if min(sizes(given, self.dims, name)) < 1:
                raise ValueError(f"{name}: must be at least 1, not {given}")
        check_algorithm(algorithm)
        self._sides = sides_of_padding(padding, self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else sizes(padding, self.dims, "padding")
        self.padding_mode: PaddingMode = padding_mode
        self.algorithm = algorithm
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        kernels = (experts, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(kernels, **options))
        self.bias = nn.Parameter(torch.empty(experts, out_channels, **options)) if bias else None
        self.expert_kernel_sizes, self.expert_dilations = expert_kernel_sizes, expert_dilations
        self.register_buffer("taps", self._own_taps(**options))
        self.router = Router(in_channels, experts, router_hidden, gate, temperature, **options)
        self._reset_experts()

    @property
    def router_hidden(self) -> int:
        """Width of the router's hidden layer, 0 for none."""
        return 0 if self.router.hidden is None else self.router.hidden.out_features

    @property
    def gate(self) -> str | Gate | Callable[[Tensor], Tensor]:
        """g, as it was given."""
        return self.router.gate

    @property
    def temperature(self) -> Tensor:
        """What divides the router's logits, a buffer of the router."""
        return self.router.temperature

    def _own_taps(self, **options: Any) -> Tensor | None:
        if not self.expert_kernel_sizes and not self.expert_dilations:
            return None
        taps = torch.zeros(self.experts, 1, 1, *self.kernel_size, **options)
        places = places_of_experts(self.kernel_size, self.experts, self.expert_kernel_sizes, self.expert_dilations)
        for k, place in enumerate(places):
            taps[k, 0, 0][place] = 1
        return taps

    def kernels(self) -> Tensor:
        """The experts' kernels, zero where an expert has no weight."""
        return self.weight if self.taps is None else self.weight * self.taps

    def reset_parameters(self) -> None:
        """Draws experts, biases and router as the constructor does, and restores its temperature."""
        self.router.reset_parameters()
        self._reset_experts()

    @torch.no_grad()
    def _reset_experts(self) -> None:
        # As torch.nn draws a kernel: uniform, scaled by the fan-in, which is that of one expert.
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)
        if self.taps is not None:
            self.taps.copy_(self._own_taps(device=self.taps.device, dtype=self.taps.dtype))  # type: ignore[arg-type]
            larger_K = (self.taps[0].numel() / self.taps.flatten(1).sum(1)).sqrt()  # by the smaller fan-in
            self.weight.mul_(self.taps * larger_K.view(-1, *(1,) * (self.dims + 2)))
            if self.bias is not None:
                self.bias.mul_(larger_K[:, None])

    @torch.no_grad()
    def add_identity(self) -> None:
        """Makes the first C output channels of every expert the identity plus that expert's own noise.

        The noise is needed because equal experts get equal gradients and stay equal. With groups, each group's first
        channels are passed on.
        """
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        channels = torch.arange(min(inputs, outputs), device=self.weight.device)
        rows = (outputs * torch.arange(self.groups, device=self.weight.device)[:, None] + channels).flatten()
        self.weight[:, rows] *= 0.5
        centres: tuple[Any, ...] = (
            slice(None), rows, channels.repeat(self.groups), *(size // 2 for size in self.kernel_size),
        )  # fmt: skip
        self.weight[centres] += 1.0

    @classmethod
    def from_conv(
        cls, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, experts: int = 4, noise: float = 0.1, **options: Any
    ) -> Self:
        """A dynamic layer whose output initially equals that of `conv`, up to rounding, and can diverge in training.

        The router starts with equal weights, 1/K with most gates. Each expert is conv's kernel, divided by the sum of
        these weights, plus its own deviation; the deviations sum to zero, so they cancel in the output while each
        routing weight has its own gradient. What is frozen in `conv` stays frozen: the experts and the router if its
        kernel is, the biases if its bias is.

        Args:
            conv: provides the geometry, the kernel, the bias, the device and the type.
            experts: K.
            noise: standard deviation of the deviations, relative to that of the kernel; for a (nearly) constant kernel,
                relative to its magnitude; for a zero kernel, relative to that of a new one.
            options: router_hidden, gate, temperature, algorithm.

        Raises:
            ValueError: `conv` has another number of dimensions, or experts are to have other kernels than `conv`.
        """
        if options.get("expert_kernel_sizes") or options.get("expert_dilations"):
            raise ValueError("expert_kernel_sizes: experts that start as a convolution have its kernel size")
        if not isinstance(conv, cls.static_type):
            raise ValueError(f"conv: {cls.__name__} needs a {cls.static_type.__name__}, not {type(conv).__name__}")
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
            experts=experts, **options,
        )  # fmt: skip
        static.fill(layer, conv, noise)
        return layer

    def collapse(self) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
        """The single convolution that is equivalent to this layer if its routing weights do not depend on the sample.

        Raises:
            ValueError: the routing weights depend on the sample: the router's last layer is not zero, and K > 1 or the
                gate does not declare that its weights sum to one.
        """
        return static.collapse(self)

    def routing_weights(self, x: Tensor) -> Tensor:
        """The routing weights a: [N, K] for x [N, C, *size], or [K] for x [C, *size]."""
        routing: Tensor = self.router(x) if x.dim() == self.dims + 2 else self.router(x[None])[0]
        return routing

    def forward(self, x: Tensor, routing_weights: Tensor | None = None) -> Tensor:
        """Computes sum_k a_k Conv_k(x): [N, C, *size] -> [N, O, *size'], or [C, *size] -> [O, *size'].

        The output has the memory format of x.

        Args:
            x: input.
            routing_weights: a, [N, K], or [K] without a batch dimension; by default, those of the layer's own router.

        Raises:
            ValueError: x has another number of dimensions, or shapes do not match.
        """
        if x.dim() == self.dims + 1:
            return self.forward(x[None], None if routing_weights is None else routing_weights[None])[0]
        if x.dim() != self.dims + 2:
            size = AXES[self.dims]
            raise ValueError(f"x: needs [N, C, {size}] or [C, {size}], not {list(x.shape)}")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x: needs [N, {self.in_channels}, {AXES[self.dims]}], not {list(x.shape)}")
        a_NK = self.routing_weights(x) if routing_weights is None else routing_weights
        padding, extra = self._explicit_padding()
        if any(extra):
            x = F.pad(x, extra, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        return mix_convolutions(
            x, self.kernels(), a_NK, self.bias,
            stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups, algorithm=self.algorithm,
        )  # fmt: skip

    def _explicit_padding(self) -> tuple[Sizes, Sizes]:
        """The padding that the convolution does itself, and the padding added before it, as `F.pad` takes it."""
        before, after = self._sides[::2], self._sides[1::2]
        if self.padding_mode == "zeros" and before == after:
            return before[::-1], (0,) * len(self._sides)
        return (0,) * self.dims, self._sides

    def explain_algorithm(self, shape: Sequence[int], training: bool | None = None) -> choice.Explanation:
        """What `auto` takes for an input of this shape, and the measured or predicted times; print it to see a table.

        Under autocast, the answer applies to autocast's type.

        Args:
            shape: shape of x, (N, C, *size).
            training: with or without gradients; by default `layer.training`.

        Raises:
            ValueError: shape has another number of dimensions, or of channels.
        """
        if len(shape) != self.dims + 2 or shape[1] != self.in_channels:
            raise ValueError(f"shape: needs (N, {self.in_channels}, {AXES[self.dims]}), not {tuple(shape)}")
        padding, extra = self._explicit_padding()
        padded = tuple(
            size + before + after for size, before, after in zip(shape[2:], extra[-2::-2], extra[-1::-2], strict=True)
        )
        device = self.weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        geometry = Geometry(
            shape[0], shape[1], padded, self.out_channels, self.experts, self.kernel_size, self.stride, padding,
            self.dilation, self.groups, dtype, device, self.training if training is None else training,
        )  # fmt: skip
        return choice.explain(geometry.computed())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to(memory_format=torch.channels_last)` needs four dimensions, so the experts are passed as K * O kernels.
        def as_kernels(tensor: Tensor) -> Tensor:
            if tensor.dim() != self.dims + 3:
                return fn(tensor)
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

        return super()._apply(as_kernels, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={_short(self.kernel_size)}"]
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name in ("self", "in_channels", "out_channels", "kernel_size", "device", "dtype"):
                continue
            value = getattr(self, name)
            if not name.startswith("expert_"):
                value = _short(value)
            if name == "bias":
                value = self.bias is not None
            elif name == "temperature":  # which has no value on the meta device
                value = 1.0 if value.is_meta else round(value.item(), 6)
            if value != parameter.default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


class DynamicConv1d(DynamicConv):
    """A convolution of sequences whose kernel is mixed from K experts for each sample: x [N, C, L] -> [N, O, L'].

    Like `torch.nn.Conv1d`, it also takes one sequence without a batch dimension: [C, L] -> [O, L']. See `DynamicConv`
    for the arguments.
    """

    static_type, dims = nn.Conv1d, 1


class DynamicConv2d(DynamicConv):
    """A convolution of images whose kernel is mixed from K experts for each image: x [N, C, H, W] -> [N, O, H', W'].

    Like `torch.nn.Conv2d`, it also takes one image without a batch dimension: [C, H, W] -> [O, H', W']. See
    `DynamicConv` for the arguments.
    """

    static_type, dims = nn.Conv2d, 2


class DynamicConv3d(DynamicConv):
    """A convolution of volumes whose kernel is mixed from K experts for each sample.

    x [N, C, D, H, W] -> [N, O, D', H', W']. Like `torch.nn.Conv3d`, it also takes one volume without a batch dimension:
    [C, D, H, W] -> [O, D', H', W']. For the arguments see `DynamicConv`.
    """

    static_type, dims = nn.Conv3d, 3


def _short(value: Any) -> Any:
    """One number if every dimension has the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
