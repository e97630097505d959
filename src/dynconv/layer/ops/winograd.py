"""The CPU operator behind algorithm `winograd`: built by the C++ compiler at first use, cached, registered with torch.

`winograd.cpp` explains the algorithm. Without a compiler everything works, by the other algorithms; `status()` says
which it is. x_NCHW float32, weight_KOCHW with 3x3 kernels, routing_NK; stride 1, one group, channels in multiples of 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops.build import Native, nhwc
from dynconv.layer.ops.double_backward import differentiable_gradients

_FUNCTIONS = {"dynconv_winograd_forward": (8, 4), "dynconv_winograd_backward": (8, 7)}
_native = Native("winograd", _FUNCTIONS, seconds=20)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether the operator can be used here; builds it if that has not been done yet (about 20 seconds)."""
    return _native.available()


def status() -> str:
    """One line for people: that the operator is live, or why not."""
    return _native.status()


DOMAIN = (
    "needs float32 on a CPU, 3x3 kernels, stride, dilation and groups 1, padding up to 2 and channels in multiples of 8"
)


def applies(geometry: Geometry) -> bool:
    """Whether this convolution is one that the operator computes: what DOMAIN says."""
    g = geometry
    return (
        g.device == "cpu"
        and g.dtype == torch.float32
        and g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and g.padding in ((0, 0), (1, 1), (2, 2))
        and g.in_channels % 8 == g.out_channels % 8 == 0
        and min(g.out_height, g.out_width) >= 1
    )


def best_tile(geometry: Geometry) -> tuple[int, float]:
    """The M of F(M, 3) expected to be fastest, 2 to 7, and its cost: multiplications of a large matrix product.

    Larger tiles need fewer multiplications, unless they stick out over the border. The two ways of mixing are those
    of winograd.cpp; 43 is what it costs to transform a number there and back, measured on a CPU with AVX2. Tiles of 7
    round worst (1.4e-5 of the output's standard deviation, 4e-6 for 6, where float32 itself has 3e-7), so they have to
    be faster by a fifth.
    """
    experts, in_channels, out_channels = geometry.experts, geometry.in_channels, geometry.out_channels

    def cost(tile: int) -> float:
        tiles = -(-geometry.out_height // tile) * -(-geometry.out_width // tile)
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


def release_workspace() -> None:
    """Gives back the memory that the operator keeps for its next call, as much as the largest call needed."""
    _native.run("dynconv_winograd_release")


def _call(name: str, tile: int, x: Tensor, weight: Tensor, padding: int, *arrays: Tensor | None) -> None:
    batch, in_channels, height, width = x.shape
    experts, out_channels = weight.shape[:2]
    shape = (tile, batch, height, width, in_channels, out_channels, experts, padding)
    _native.call(f"dynconv_winograd_{name}", shape, *arrays)


@torch.library.custom_op("dynconv::winograd", mutates_args=())
def winograd(x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int) -> Tensor:
    """sum_k routing_NK conv2d(x_NCHW, weight_KOC33, padding) -> [N,O,H',W'], channels_last; tile is 2 to 7."""
    x, weight, routing = nhwc(x), weight.contiguous(), routing.contiguous()
    out = _output(x, weight, padding)
    _call("forward", tile, x, weight, padding, x, weight, routing, out)
    return out


def _output(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    return x.new_empty(x.shape[0], height, width, weight.shape[1]).permute(0, 3, 1, 2)


@winograd.register_fake
def _(x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int) -> Tensor:
    return _output(x, weight, padding)


@torch.library.custom_op("dynconv::winograd_backward", mutates_args=())
def winograd_backward(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `winograd` for x (an empty tensor unless input_grad), weight and routing."""
    x, grad, weight, routing = nhwc(x), nhwc(grad), weight.contiguous(), routing.contiguous()
    grad_x = torch.empty_like(x) if input_grad else None
    grad_weight, grad_routing = torch.empty_like(weight), torch.empty_like(routing)
    _call("backward", tile, x, weight, padding, x, weight, routing, grad, grad_x, grad_weight, grad_routing)
    return x.new_empty(0) if grad_x is None else grad_x, grad_weight, grad_routing


@winograd_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = nhwc(torch.empty_like(x)) if input_grad else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape), routing.new_empty(routing.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, routing, ctx.padding, ctx.tile = inputs
    ctx.save_for_backward(x, weight, routing)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, weight, routing = ctx.saved_tensors
    if torch.is_grad_enabled() and len(x):  # create_graph=True: second derivatives come from torch's own operations
        needed = ctx.needs_input_grad[:3]
        return *differentiable_gradients(grad, x, weight, routing, 1, ctx.padding, needed), None, None
    input_grad = ctx.needs_input_grad[0]
    grads = winograd_backward(grad, x, weight, routing, ctx.padding, ctx.tile, input_grad)
    return grads[0] if input_grad else None, grads[1], grads[2], None, None


winograd.register_autograd(_backward, setup_context=_setup_context)
