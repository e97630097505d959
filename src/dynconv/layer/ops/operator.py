"""How a compiled operator becomes one of torch's: memory layouts, shapes without values, first and second gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.nn import functional as F

from dynconv.layer.flops import register_flops


class Run(Protocol):
    """Computes an operator on a CPU.

    Args:
        direction: "forward" or "backward".
        x: [N, C, H, W], channels_last; for the shapes and the type.
        weight: [K, O, C, height, width], contiguous; likewise.
        integers: the operator's own.
        arrays: forward x, weight, routing, and the output to write; backward x, weight, routing, the output's
            gradient, and to write the gradients of x (None: not needed), weight and routing. Maps are channels_last.
    """

    def __call__(
        self, direction: str, x: Tensor, weight: Tensor, integers: tuple[int, ...], *arrays: Tensor | None
    ) -> None: ...


def register(
    name: str, integers: tuple[str, ...], geometry: Callable[..., tuple[int, int]], run: Run
) -> tuple[CustomOpDef, CustomOpDef]:
    """Registers dynconv::NAME(x_NCHW, weight_KOCHW, routing_NK, *integers) for the CPU, and dynconv::NAME_backward.

    The first is sum_k routing_NK conv2d(x_NCHW, weight_KOCHW), [N, O, H', W'] in channels_last. The second takes the
    output's gradient, the same arguments and `input_grad`, and returns the gradients of x (an empty tensor unless
    input_grad), weight and routing. Kernels for other devices: `register_kernel` of each.

    Args:
        name: of the operator.
        integers: names of its integers.
        geometry: from the integers to stride and padding.
        run: what computes.
    """

    def empty_output(x: Tensor, weight: Tensor, numbers: tuple[int, ...]) -> Tensor:
        stride, padding = geometry(*numbers)
        height, width = ((side + 2 * padding - weight.shape[3]) // stride + 1 for side in x.shape[2:])
        return x.new_empty(x.shape[0], height, width, weight.shape[1]).permute(0, 3, 1, 2)

    def forward(x: Tensor, weight: Tensor, routing: Tensor, *numbers: int) -> Tensor:
        x, weight, routing = nhwc(x), weight.contiguous(), routing.contiguous()
        out = empty_output(x, weight, numbers)
        run("forward", x, weight, numbers, x, weight, routing, out)
        return out

    def gradients(
        grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, *rest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        *numbers, input_grad = rest
        x, grad, weight, routing = nhwc(x), nhwc(grad), weight.contiguous(), routing.contiguous()
        grad_x = torch.empty_like(x) if input_grad else None
        grad_weight, grad_routing = torch.empty_like(weight), torch.empty_like(routing)
        run("backward", x, weight, tuple(numbers), x, weight, routing, grad, grad_x, grad_weight, grad_routing)
        return x.new_empty(0) if grad_x is None else grad_x, grad_weight, grad_routing

    def fake_gradients(
        grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, *rest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_x = nhwc(torch.empty_like(x)) if rest[-1] else x.new_empty(0)
        return grad_x, weight.new_empty(weight.shape), routing.new_empty(routing.shape)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, routing, *ctx.numbers = inputs
        ctx.save_for_backward(x, weight, routing)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, routing = ctx.saved_tensors
        input_grad = ctx.needs_input_grad[0]
        found: tuple[Tensor | None, ...]
        if torch.is_grad_enabled() and len(x):  # create_graph=True
            stride, padding = geometry(*ctx.numbers)
            needed = ctx.needs_input_grad[:3]
            found = tuple(_differentiable_gradients(grad, x, weight, routing, stride, padding, needed))
        else:
            found = operator_backward(grad, x, weight, routing, *ctx.numbers, input_grad)
            found = (found[0] if input_grad else None, *found[1:])
        return *found, *(None for _ in ctx.numbers)

    inputs = f"Tensor x, Tensor weight, Tensor routing, {', '.join(f'SymInt {integer}' for integer in integers)}"
    options: dict[str, Any] = {"mutates_args": (), "device_types": "cpu"}
    operator = torch.library.custom_op(f"dynconv::{name}", forward, schema=f"({inputs}) -> Tensor", **options)
    operator_backward = torch.library.custom_op(
        f"dynconv::{name}_backward",
        gradients,
        schema=f"(Tensor grad, {inputs}, bool input_grad) -> (Tensor, Tensor, Tensor)",
        **options,
    )
    operator.register_fake(lambda x, weight, routing, *numbers: empty_output(x, weight, numbers))
    operator_backward.register_fake(fake_gradients)
    operator.register_autograd(backward, setup_context=setup_context)
    register_flops(name)
    return operator, operator_backward


def nhwc(x: Tensor) -> Tensor:
    """x [N, C, H, W] in channels_last; `contiguous` alone leaves a batch of one or a 1x1 map with other strides."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _differentiable_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int, needed: Sequence[bool]
) -> Iterator[Tensor | None]:
    """The gradients for x_NCHW, weight_KOCHW and routing_NK that are needed, by torch's operations, with a graph."""
    n, c, height, width = x.shape
    mixed = (routing.to(weight.dtype) @ weight.flatten(1)).view(n * weight.shape[1], c, *weight.shape[3:])
    maps = x.reshape(1, n * c, height, width)
    out = F.conv2d(maps, mixed, stride=stride, padding=padding, groups=n).view(grad.shape)
    inputs = [tensor for tensor, wanted in zip((x, weight, routing), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return (next(found) if wanted else None for wanted in needed)
