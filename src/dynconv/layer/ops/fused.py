"""The operator behind algorithm `fused`: experts mixed tile by tile where the tile is used, registered with torch.

`fused.cpp` explains the algorithm for a CPU, `fused_triton.py` for a GPU. x_NCHW and weight_KOCHW in float32 or bf16,
on a GPU also in float16, routing_NK in float32; kernels of 1x1 or 3x3, stride 1 or 2, one group.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops.build import Native, nhwc
from dynconv.layer.ops.double_backward import differentiable_gradients

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_GPU_TYPES = (*_TYPES, torch.float16)
_FUNCTIONS = {f"dynconv_fused_forward_{name}": (9, 4) for name in _TYPES.values()} | {
    f"dynconv_fused_backward_{name}": (9, 7) for name in _TYPES.values()
}
_native = Native("fused", _FUNCTIONS, seconds=5)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether the CPU's operator can be used here; builds it if that has not been done yet (about 5 seconds)."""
    return _native.available()


def status() -> str:
    """One line for people: that the CPU's operator is live, or why not; where there is a GPU, the same of its own."""
    if not torch.cuda.is_available():
        return _native.status()
    try:
        found = f"with Triton {_triton().triton.__version__}, not timed yet"
    except RuntimeError as reason:
        found = str(reason)
    return f"{_native.status()}; on CUDA: {found}"


DOMAIN = (
    "needs float32 or bfloat16 on a CPU, or those or float16 on CUDA, kernels of 1x1 or 3x3, one stride of 1 or 2 for "
    "both sides, dilation and groups 1, and padding below the kernel's side"
)


def applies(geometry: Geometry) -> bool:
    """Whether this convolution is one that the operator computes: what DOMAIN says."""
    g = geometry
    return (
        ((g.device == "cpu" and g.dtype in _TYPES) or (g.device == "cuda" and g.dtype in _GPU_TYPES))
        and g.kernel in ((1, 1), (3, 3))
        and g.stride in ((1, 1), (2, 2))
        and g.dilation == (1, 1)
        and g.groups == 1
        and g.padding[0] == g.padding[1]
        and 0 <= g.padding[0] < g.kernel[0]
        and min(g.out_height, g.out_width) >= 1
    )


def release_workspace() -> None:
    """Gives back the memory that the operator keeps for its next call, as much as the largest call needed."""
    _native.run("dynconv_fused_release")


def _call(name: str, x: Tensor, weight: Tensor, stride: int, padding: int, *arrays: Tensor | None) -> None:
    batch, in_channels, height, width = x.shape
    experts, out_channels, _, side, _ = weight.shape
    shape = (batch, height, width, in_channels, out_channels, experts, side, stride, padding)
    _native.call(f"dynconv_fused_{name}_{_TYPES[x.dtype]}", shape, *arrays)


def _triton() -> ModuleType:
    """The GPU's kernels, imported late: only CUDA builds of torch bring Triton along."""
    try:
        from dynconv.layer.ops import fused_triton
    except ImportError as error:
        raise RuntimeError(f"the fused operator is not available on CUDA: {error} (pip install triton)") from error
    return fused_triton


def _on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda"


@torch.library.custom_op("dynconv::fused", mutates_args=())
def fused(x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int) -> Tensor:
    """sum_k routing_NK conv2d(x_NCHW, weight_KOCHW, stride, padding) -> [N,O,H',W'], channels_last."""
    if _on_gpu(x):
        return _triton().forward(x, weight, routing, stride, padding)
    x, weight, routing = nhwc(x), weight.contiguous(), routing.contiguous()
    out = _output(x, weight, stride, padding)
    _call("forward", x, weight, stride, padding, x, weight, routing, out)
    return out


def _output(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    height, width = ((side + 2 * padding - weight.shape[3]) // stride + 1 for side in x.shape[2:])
    return x.new_empty(x.shape[0], height, width, weight.shape[1]).permute(0, 3, 1, 2)


@fused.register_fake
def _(x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int) -> Tensor:
    return _output(x, weight, stride, padding)


@torch.library.custom_op("dynconv::fused_backward", mutates_args=())
def fused_backward(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `fused` for x (an empty tensor unless input_grad), weight and routing."""
    if _on_gpu(x):
        return _triton().gradients(grad, x, weight, routing, stride, padding, input_grad)
    x, grad, weight, routing = nhwc(x), nhwc(grad), weight.contiguous(), routing.contiguous()
    grad_x = torch.empty_like(x) if input_grad else None
    grad_weight, grad_routing = torch.empty_like(weight), torch.empty_like(routing)
    arrays = (x, weight, routing, grad, grad_x, grad_weight, grad_routing)
    _call("backward", x, weight, stride, padding, *arrays)
    return x.new_empty(0) if grad_x is None else grad_x, grad_weight, grad_routing


@fused_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = nhwc(torch.empty_like(x)) if input_grad else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape), routing.new_empty(routing.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, routing, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight, routing)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, weight, routing = ctx.saved_tensors
    if torch.is_grad_enabled() and len(x):  # create_graph=True: second derivatives come from torch's own operations
        needed = ctx.needs_input_grad[:3]
        return *differentiable_gradients(grad, x, weight, routing, ctx.stride, ctx.padding, needed), None, None
    input_grad = ctx.needs_input_grad[0]
    grads = fused_backward(grad, x, weight, routing, ctx.stride, ctx.padding, input_grad)
    return grads[0] if input_grad else None, grads[1], grads[2], None, None


fused.register_autograd(_backward, setup_context=_setup_context)
