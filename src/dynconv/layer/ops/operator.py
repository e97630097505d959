"""How a compiled operator becomes one of torch's: schema, checks, memory layouts, shapes without values, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from dynconv.layer.flops import register_flops
from dynconv.layer.geometry import Geometry, Sizes
from dynconv.layer.ops.library import Library


class Forward(Protocol):
    """Computes sum_k routing_NK conv2d(x_NCHW, weight_KOCHW) -> [N, O, H', W'] in channels_last.

    x is in channels_last, weight and routing are contiguous; the integers are the operator's own.
    """

    def __call__(self, x: Tensor, weight: Tensor, routing: Tensor, *integers: int) -> Tensor: ...


class Backward(Protocol):
    """Computes the gradients of x, and of weight and routing; None each where they are not asked for.

    grad and x are in channels_last, weight and routing are contiguous; so are the gradients.
    """

    def __call__(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        routing: Tensor,
        *integers: int,
        input_grad: bool,
        bank_grad: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...


class Convolution(NamedTuple):
    """Height and width each."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes = (1, 1)


Kernel = Callable[..., Any]

_DEFINED: dict[str, torch.library.Library] = {}


def define(
    name: str, schema: str, kernel: Kernel, fake: Kernel, gradient: Kernel | None = None, save: Kernel | None = None
) -> torch._ops.OpOverload:
    """torch's operator dynconv::NAME. One of this name that there is, as when a module is loaded again, is replaced.

    Not torch.library.custom_op: its kernels import torch's compiler when they are first called, which takes a second.

    Args:
        kernel: computes it, on any device.
        fake: what it returns, for inputs without values.
        gradient, save: its backward pass and what that needs, as for torch.library.register_autograd; none without.
    """
    if name in _DEFINED:
        _DEFINED.pop(name)._destroy()
    library = _DEFINED[name] = torch.library.Library("dynconv", "FRAGMENT")
    library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dynconv::{name}", fake, lib=library)
    if gradient is not None:
        torch.library.register_autograd(f"dynconv::{name}", gradient, setup_context=save, lib=library)
    operator: torch._ops.OpOverload = getattr(torch.ops.dynconv, name).default
    return operator


class Operator:
    """dynconv::NAME(x_NCHW, weight_KOCHW, routing_NK, *integers) -> sum_k routing_NK conv2d(x_NCHW, weight_KOCHW).

    The output [N, O, H', W'] is in channels_last. dynconv::NAME_backward takes the output's gradient, these arguments,
    and two booleans: whether the gradient of x, and whether those of weight and routing are needed. A gradient that is
    not needed is not computed, and returned as an empty tensor.

    Everything is checked before it reaches a kernel, which reads memory by the shapes that it is given.

    Args:
        name: NAME.
        integers: names of its integers.
        convolution: maps the integers to stride, padding and dilation. The groups follow from the channels.
        obstacle: why a geometry, with these integers, cannot be computed; empty if it can be.
    """

    def __init__(
        self,
        name: str,
        integers: tuple[str, ...],
        convolution: Callable[..., Convolution],
        obstacle: Callable[..., str],
    ) -> None:
        self.name, self._convolution, self._obstacle = name, convolution, obstacle
        self._kernels: dict[str, tuple[Kernel, Kernel]] = {}
        inputs = f"Tensor x, Tensor weight, Tensor routing, {', '.join(f'SymInt {integer}' for integer in integers)}"
        self.forward = define(
            name, f"({inputs}) -> Tensor", lambda *inputs: self._kernel(inputs[0])[0](*inputs),
            lambda x, weight, routing, *numbers: self.empty_output(x, weight, *numbers), self._autograd, _save,
        )  # fmt: skip
        self.backward = define(
            f"{name}_backward",
            f"(Tensor grad, {inputs}, bool input_grad, bool bank_grad) -> (Tensor, Tensor, Tensor)",
            lambda *inputs: self._kernel(inputs[1])[1](*inputs),
            self._fake_backward,
        )
        register_flops(name)

    def __call__(self, x: Tensor, weight: Tensor, routing: Tensor, *integers: int) -> Tensor:
        found: Tensor = self.forward(x, weight, routing, *integers)
        return found

    def register_kernel(self, device: str, forward: Forward, backward: Backward) -> None:
        """Has the operator computed by these functions on a device."""

        def checked_forward(x: Tensor, weight: Tensor, routing: Tensor, *integers: int) -> Tensor:
            self._check(x, weight, routing, integers)
            return forward(nhwc(x), weight.contiguous(), routing.contiguous(), *integers)

        def checked_backward(
            grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, *rest: Any
        ) -> tuple[Tensor, Tensor, Tensor]:
            *integers, input_grad, bank_grad = rest
            self._check(x, weight, routing, tuple(integers))
            shape = self._out_shape(x, weight, *integers)
            if tuple(grad.shape) != shape or grad.dtype != x.dtype or grad.device != x.device:
                raise ValueError(f"dynconv::{self.name}_backward: grad must be {x.dtype} {list(shape)} on {x.device}")
            grad, x, weight, routing = nhwc(grad), nhwc(x), weight.contiguous(), routing.contiguous()
            found = backward(grad, x, weight, routing, *integers, input_grad=input_grad, bank_grad=bank_grad)
            dx, dw, da = (
                like.new_empty(0) if gradient is None else gradient
                for gradient, like in zip(found, (x, weight, routing), strict=True)
            )
            return dx, dw, da

        self._kernels[device] = checked_forward, checked_backward

    def register_library(
        self,
        library: Library,
        function: Callable[[str, torch.dtype], str],
        shape: Callable[..., tuple[int, ...]],
    ) -> None:
        """Has the operator computed on a CPU by a library.

        Args:
            function: maps "forward" or "backward" and the type of x to the name of the library's function, whose arrays
                are x, weight, routing and the output; or x, weight, routing, the output's gradient and those to write,
                null where they are not needed.
            shape: maps x, weight and the operator's integers to those of the function.
        """

        def forward(x: Tensor, weight: Tensor, routing: Tensor, *integers: int) -> Tensor:
            out = self.empty_output(x, weight, *integers)
            library.call(function("forward", x.dtype), shape(x, weight, *integers), x, weight, routing, out)
            return out

        def backward(
            grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, *integers: int, input_grad: bool, bank_grad: bool
        ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            dx = torch.empty_like(x) if input_grad else None
            dw, da = (torch.empty_like(weight), torch.empty_like(routing)) if bank_grad else (None, None)
            numbers = shape(x, weight, *integers)
            library.call(function("backward", x.dtype), numbers, x, weight, routing, grad, dx, dw, da)
            return dx, dw, da

        self.register_kernel("cpu", forward, backward)

    def empty_output(self, x: Tensor, weight: Tensor, *integers: int) -> Tensor:
        """An output to write into, in channels_last."""
        batch, channels, height, width = self._out_shape(x, weight, *integers)
        return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)

    def _out_shape(self, x: Tensor, weight: Tensor, *integers: int) -> tuple[int, int, int, int]:
        height, width = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip(
                x.shape[2:], weight.shape[3:], *self._convolution(*integers), strict=True
            )
        )
        return x.shape[0], weight.shape[1], height, width

    def _check(self, x: Tensor, weight: Tensor, routing: Tensor, integers: tuple[int, ...]) -> None:
        problem = ""
        if (x.dim(), weight.dim(), routing.dim()) != (4, 5, 2):
            problem = "needs x [N, C, H, W], weight [K, O, C, height, width] and routing [N, K]"
        elif x.shape[1] % max(1, weight.shape[2]) or tuple(routing.shape) != (x.shape[0], weight.shape[0]):
            problem = f"shapes do not match: {list(x.shape)}, {list(weight.shape)}, {list(routing.shape)}"
        elif x.dtype != weight.dtype or routing.dtype != torch.float32:
            problem = (
                f"needs x and weight of one type and float32 routing, not {x.dtype}, {weight.dtype}, {routing.dtype}"
            )
        elif not x.device == weight.device == routing.device:
            problem = f"devices do not match: {x.device}, {weight.device}, {routing.device}"
        else:
            geometry = Geometry.of(x, weight, *self._convolution(*integers), groups=x.shape[1] // weight.shape[2])
            problem = self._obstacle(geometry, *integers)
        if problem:
            raise ValueError(f"dynconv::{self.name}: {problem}")

    def _kernel(self, x: Tensor) -> tuple[Kernel, Kernel]:
        if x.device.type not in self._kernels:
            raise NotImplementedError(f"dynconv::{self.name} has no kernel for {x.device.type}")
        return self._kernels[x.device.type]

    def _fake_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        *_, input_grad, bank_grad = rest
        dx = nhwc(torch.empty_like(x)) if input_grad else x.new_empty(0)
        if not bank_grad:
            return dx, weight.new_empty(0), routing.new_empty(0)
        return dx, weight.new_empty(weight.shape), routing.new_empty(routing.shape)

    def _autograd(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, routing = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() and len(x):  # create_graph=True
            convolution = self._convolution(*ctx.integers)
            found = tuple(_differentiable_gradients(grad, x, weight, routing, convolution, needed))
        else:
            all_three = self.backward(grad, x, weight, routing, *ctx.integers, needed[0], needed[1] or needed[2])
            found = tuple(gradient if wanted else None for gradient, wanted in zip(all_three, needed, strict=True))
        return *found, *(None for _ in ctx.integers)


def in_forward_mode() -> bool:
    """Whether forward-mode derivatives are computed, which torch would lose in a custom operator without a word."""
    return forward_ad._current_level >= 0


def in_transform() -> bool:
    """Whether a transform of torch.func or forward mode is active: custom operators support neither."""
    return torch._C._are_functorch_transforms_active() or in_forward_mode()


def nhwc(x: Tensor) -> Tensor:
    """x [N, C, H, W] in channels_last; `contiguous` alone leaves a batch of one or a 1x1 map with other strides."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, routing, *ctx.integers = inputs
    ctx.save_for_backward(x, weight, routing)


def _differentiable_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, convolution: Convolution, needed: Sequence[bool]
) -> Iterator[Tensor | None]:
    """The gradients for x_NCHW, weight_KOCHW and routing_NK that are needed, by torch's operations, with a graph."""
    n, c, height, width = x.shape
    mixed = (routing.to(weight.dtype) @ weight.flatten(1)).view(n * weight.shape[1], *weight.shape[2:])
    groups = n * (c // weight.shape[2])
    out = F.conv2d(x.reshape(1, n * c, height, width), mixed, None, *convolution, groups).view(grad.shape)
    inputs = [tensor for tensor, wanted in zip((x, weight, routing), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return (next(found) if wanted else None for wanted in needed)
