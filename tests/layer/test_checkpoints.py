"""Tensors in the layouts of public implementations give the same outputs here."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.layer import DynamicConv1d, DynamicConv2d, Router, load_experts, load_router


def condconv(x: Tensor, weight: Tensor, a: Tensor, shape: tuple[int, ...], stride: int, groups: int) -> Tensor:
    """As timm's CondConv2d computes it, with TensorFlow's "same" padding, which is uneven at stride 2."""
    n, _, *size = x.shape
    total = [max((math.ceil(s / stride) - 1) * stride + shape[-1] - s, 0) for s in size]
    x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
    kernels = (a @ weight).view(n * shape[0], *shape[1:])
    out = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, stride=stride, groups=groups * n)
    return out.view(n, shape[0], *out.shape[2:])


def test_a_condconv_block_with_one_router_for_three_convolutions() -> None:
    """An inverted residual of timm: pointwise, depthwise at stride 2, pointwise; weights flat, plain sigmoid."""
    torch.manual_seed(0)
    experts, channels, wide = 4, 6, 12
    shapes = {"conv_pw": (wide, channels, 1, 1), "conv_dw": (wide, 1, 3, 3), "conv_pwl": (8, wide, 1, 1)}
    state = {f"{name}.weight": torch.randn(experts, math.prod(shape)) for name, shape in shapes.items()}
    state |= {"routing_fn.weight": torch.randn(experts, channels), "routing_fn.bias": torch.randn(experts)}
    x = torch.randn(3, channels, 9, 10)

    a = (x.mean((2, 3)) @ state["routing_fn.weight"].T + state["routing_fn.bias"]).sigmoid()
    expected = condconv(x, state["conv_pw.weight"], a, shapes["conv_pw"], 1, 1).relu()
    expected = condconv(expected, state["conv_dw.weight"], a, shapes["conv_dw"], 2, wide).relu()
    expected = condconv(expected, state["conv_pwl.weight"], a, shapes["conv_pwl"], 1, 1)

    router = Router(channels, experts, gate="plain_sigmoid")
    load_router(router, state["routing_fn.weight"], state["routing_fn.bias"])
    pointwise = DynamicConv2d(channels, wide, 1, bias=False, experts=experts)
    depthwise = DynamicConv2d(wide, wide, 3, stride=2, groups=wide, bias=False, experts=experts)
    last = DynamicConv2d(wide, 8, 1, bias=False, experts=experts)
    for name, layer in (("conv_pw", pointwise), ("conv_dw", depthwise), ("conv_pwl", last)):
        load_experts(layer, state[f"{name}.weight"])
    mine = pointwise(x, router(x)).relu()
    mine = depthwise(F.pad(mine, (0, 1, 1, 1)), router(x)).relu()  # "same" at stride 2, on 9 x 10 pixels
    mine = last(mine, router(x))

    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_stacked_kernels_flat_biases_and_a_pointwise_router() -> None:
    torch.manual_seed(0)
    layer = DynamicConv1d(4, 6, 3, experts=3)
    stacked, biases, router = torch.randn(18, 4, 3), torch.randn(18), torch.randn(3, 4, 1)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="bias: needs"):
        load_experts(layer, stacked, biases.flatten()[1:])
    assert torch.equal(layer.weight, before), "nothing was taken"
    load_experts(layer, stacked, biases)
    load_router(layer.router, router)
    x = torch.randn(2, 4, 9)

    a = (x.mean(2) @ router[:, :, 0].T).softmax(1)
    every = F.conv1d(x, stacked, biases).unflatten(1, (3, 6))
    torch.testing.assert_close(layer(x), (a[:, :, None, None] * every).sum(1), rtol=1e-4, atol=1e-5)
    again = DynamicConv1d(4, 6, 3, experts=3)
    load_experts(again, layer.weight, layer.bias)
    torch.testing.assert_close(again.weight, layer.weight)


def test_what_does_not_fit_is_named() -> None:
    layer = DynamicConv2d(4, 6, 3, experts=3)
    for weight, bias, reason in (
        (
            torch.zeros(3, 6 * 4 * 9 + 1),
            torch.zeros(3, 6),
            r"weight: needs \[3, 6, 4, 3, 3\], \[3, 216\] or \[18, 4, 3, 3\]",
        ),
        (torch.zeros(3, 216), None, "bias: the layer has one, and none is given"),
        (torch.zeros(3, 216), torch.zeros(3, 5), r"bias: needs \[3, 6\], not \[3, 5\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_experts(layer, weight, bias)
    with pytest.raises(ValueError, match="bias: the layer has none"):
        load_experts(DynamicConv2d(4, 6, 3, experts=3, bias=False), torch.zeros(3, 216), torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"weight: needs \[3, 4\], not \[3, 5\]"):
        load_router(layer.router, torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"bias: needs \[3\], not \[4\]"):
        load_router(layer.router, torch.zeros(3, 4), torch.zeros(4))
    with pytest.raises(ValueError, match="without a hidden layer"):
        load_router(Router(4, 3, hidden=2), torch.zeros(3, 4))
