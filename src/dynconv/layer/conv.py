"""`DynamicConv2d`: K expert convolutions and the router that mixes them for each image.

    a = g(SpatialAveragePool(X) W),    O = a_1 Conv_1(X) + ... + a_K Conv_K(X)

Known as conditionally parameterised convolution (Yang et al. 2019, https://arxiv.org/abs/1904.04971) and dynamic
convolution (Chen et al. 2020, https://arxiv.org/abs/1912.03458). Needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.layer import choice
from dynconv.layer.geometry import Geometry, Pair, pair
from dynconv.layer.mixing import ALGORITHMS, Algorithm, mix_convolutions

Activation = Literal["softmax", "sigmoid", "sparsemax"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def sparsemax(z: Tensor) -> Tensor:
    """The point of the probability simplex nearest to z, over the last dimension; its weights can be exactly 0.

    Martins and Astudillo 2016, https://arxiv.org/abs/1602.02068
    """
    sorted_z, _ = z.sort(dim=-1, descending=True)
    cumulative = sorted_z.cumsum(-1) - 1
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    support = (rank * sorted_z > cumulative).sum(-1, keepdim=True)
    threshold = cumulative.gather(-1, support - 1) / support
    return (z - threshold).clamp_min(0)


class Router(nn.Module):
    """a = g(SpatialAveragePool(X) W): x [N, C, H, W] -> routing weights [N, K].

    The last layer starts small, so that training begins near a = 1/K with gradients that differ between experts.

    Args:
        channels: C.
        experts: K.
        hidden: width of a hidden layer with ReLU; 0 for none.
        activation: g: softmax, sparsemax, or 2/K * sigmoid (1/K at zero, as the others).
        temperature: what the logits are divided by; a buffer, so that it is saved with the weights.
    """

    temperature: Tensor

    def __init__(
        self, channels: int, experts: int, hidden: int = 0, activation: Activation = "softmax", temperature: float = 1.0
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid", "sparsemax"):
            raise ValueError(f"activation: {activation!r} is none of softmax, sigmoid, sparsemax")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: must be positive and finite, not {temperature}")
        if hidden < 0:
            raise ValueError(f"router_hidden: must be at least 0, not {hidden}")
        self.activation = activation
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.linear = nn.Linear(hidden or channels, experts)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(hidden or channels))
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @property
    def sums_to_one(self) -> bool:
        """Whether the routing weights of every image sum to one."""
        return self.activation != "sigmoid"

    def forward(self, x: Tensor) -> Tensor:
        with _no_autocast(x.device):
            features = x.float().mean((2, 3)).to(self.linear.weight.dtype)
            if self.hidden is not None:
                features = F.relu(self.hidden(features))
            logits = self.linear(features) / self.temperature
            if self.activation == "softmax":
                return logits.softmax(-1)
            if self.activation == "sigmoid":
                return logits.sigmoid() * (2 / logits.shape[-1])
            return sparsemax(logits)


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """In float32 even under autocast: rounding a routing weight to 8 bits would move a whole image's kernel."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)  # meta has none


class DynamicConv2d(nn.Module):
    """A convolution whose kernel is mixed from K experts, for each image by itself. x [N,C,H,W] -> [N,O,H',W'].

    As `Conv2d` it also takes one image without a batch, [C,H,W] -> [O,H',W'].

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            `torch.nn.Conv2d`. Routing sees the input before padding.
        experts: K >= 1.
        router_hidden, activation, temperature: see `Router`.
        algorithm: how the mixture is computed, see `dynconv.layer.mixing`; the values agree up to rounding.

    Raises:
        ValueError: a value that its argument does not take; names it.
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
        activation: Activation = "softmax",
        temperature: float = 1.0,
        algorithm: Algorithm = "auto",
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
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm: {algorithm!r} is none of {', '.join(ALGORITHMS)}")
        self.padding = self._padding(padding)
        self.padding_mode: PaddingMode = padding_mode
        self.algorithm: Algorithm = algorithm
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        kernels = (experts, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(kernels, **options))
        self.bias = nn.Parameter(torch.empty(experts, out_channels, **options)) if bias else None
        self.router = Router(in_channels, experts, router_hidden, activation, temperature).to(**options)
        self.reset_experts()

    def _padding(self, padding: int | Pair | str) -> tuple[int, int, int, int]:
        """Left, right, top, bottom."""
        if padding == "same":
            if self.stride != (1, 1):
                raise ValueError("padding: 'same' needs stride 1")
            # As Conv2d: of an odd number of pixels, the odd one goes right and below.
            height, width = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return width // 2, width - width // 2, height // 2, height - height // 2
        if padding == "valid":
            return 0, 0, 0, 0
        if isinstance(padding, str):
            raise ValueError(f"padding: {padding!r} is neither numbers nor 'same' nor 'valid'")
        height, width = pair(padding, "padding")
        if min(height, width) < 0:
            raise ValueError(f"padding: must be at least 0, not {padding}")
        return width, width, height, height

    def _explicit_padding(self) -> tuple[Pair, int, int]:
        """The padding left to the convolution, and by how much the input is made higher and wider before it."""
        left, right, top, bottom = self.padding
        if self.padding_mode == "zeros" and (left, top) == (right, bottom):
            return (top, left), 0, 0
        return (0, 0), top + bottom, left + right

    @torch.no_grad()
    def reset_experts(self) -> None:
        """Draws each expert as `torch.nn.Conv2d` draws its kernel: uniform, by the fan-in of one expert."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def add_identity(self) -> None:
        """Makes the first C output channels of every expert the identity plus that expert's own noise.

        The noise stays: experts that start equal stay equal, since each then gets the same gradient.
        """
        if self.groups != 1:
            raise ValueError("add_identity: needs groups = 1")
        channels = torch.arange(min(self.weight.shape[1:3]), device=self.weight.device)
        self.weight[:, channels] *= 0.5
        self.weight[:, channels, channels, self.weight.shape[3] // 2, self.weight.shape[4] // 2] += 1.0

    @classmethod
    @torch.no_grad()
    def from_conv(cls, conv: nn.Conv2d, experts: int = 4, noise: float = 0.1, **options: Any) -> DynamicConv2d:
        """A dynamic layer whose output is at first that of `conv`, to rounding, and that can leave it in training.

        The router starts at exactly a = 1/K. The experts are conv's kernel plus deviations that differ and add up to
        zero, so they cancel in the output, but each routing weight has a gradient of its own.

        Args:
            conv: where the geometry, the kernel, the bias, device and type are taken from.
            experts: K.
            noise: standard deviation of the deviations, relative to that of the kernel.
            options: router_hidden, activation, temperature, algorithm.
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
        deviations = torch.randn_like(layer.weight) * (noise * conv.weight.std())
        layer.weight.copy_(conv.weight + deviations - deviations.mean(0))
        if layer.bias is not None and conv.bias is not None:
            layer.bias.copy_(conv.bias.expand_as(layer.bias))
        nn.init.zeros_(layer.router.linear.weight)
        return layer

    @torch.no_grad()
    def collapse(self) -> nn.Conv2d:
        """The one convolution that this layer is, where its routing weights are the same for every image.

        Raises:
            ValueError: they are not: K > 1 (or K = 1 with sigmoid) and the router's last layer is not zero.
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
        """a, [N, K], for x [N, C, H, W]; [K] for [C, H, W]."""
        routing: Tensor = self.router(x) if x.dim() == 4 else self.router(x[None])[0]
        return routing

    def forward(self, x: Tensor, routing_weights: Tensor | None = None) -> Tensor:
        """sum_k a_k Conv_k(x); a [N, K] is the layer's own router's unless routing_weights gives another.

        Without a batch, x [C, H, W], a is [K].
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
            x,
            self.weight,
            a_NK,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            algorithm=self.algorithm,
        )

    def explain_algorithm(self, shape: Sequence[int], training: bool | None = None) -> choice.Explanation:
        """What `auto` takes for an input of this shape, and the predicted times behind it; print it.

        Args:
            shape: of x: (N, C, H, W).
            training: with gradients or without; as the layer is now (`layer.training`), if not given.

        Under autocast it is what `auto` takes there.

        Raises:
            ValueError: shape has not four dimensions, or another number of channels.
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
        # `to(memory_format=torch.channels_last)` fails on five dimensions, so the experts go through it as kernels.
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
