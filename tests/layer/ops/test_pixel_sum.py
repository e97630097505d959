"""The sum over pixels in bfloat16: as exact as float32, gradients as torch's, and no copy of a map in float32."""

import importlib
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import needs_operators
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dynconv.layer import DynamicConv2d
from dynconv.layer.ops.pixel_sum import pixel_sum


@pytest.fixture(autouse=True)
def _operators() -> None:
    needs_operators()


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(0, 3), st.integers(1, 200), st.integers(1, 40), st.integers(1, 9)), st.booleans())
def test_sums_of_any_shape_and_layout(shape: tuple[int, ...], channels_last: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()
    x = x.to(memory_format=torch.channels_last) if channels_last else x

    found = pixel_sum(x)

    assert found.dtype == torch.float32
    magnitude = x.double().abs().sum((2, 3))
    assert ((found - x.double().sum((2, 3))).abs() <= 1e-6 * magnitude + 1e-30).all()


def test_not_finite_and_not_contiguous() -> None:
    x = torch.randn(2, 5, 6, 8).bfloat16()
    x[0, 1, 2, 3], x[1, 0, 0, 0] = float("nan"), float("inf")

    torch.testing.assert_close(pixel_sum(x[:, ::2, :, 1::3]), x[:, ::2, :, 1::3].float().sum((2, 3)), equal_nan=True)


def test_gradients_of_the_router_are_those_of_torchs_sum() -> None:
    layer = DynamicConv2d(24, 8, 3, experts=4).bfloat16()
    wide = torch.randn(8, 24, 20, 20)  # large enough for the operator
    x = wide.bfloat16().requires_grad_()

    names = _Names()
    with names:
        layer.routing_weights(x)[:, 0].sum().backward()
    y = wide.bfloat16().requires_grad_()
    mean = y.sum((2, 3), dtype=torch.float32) / 400
    (layer.router.linear(mean.bfloat16()).softmax(-1)[:, 0]).sum().backward()

    assert "dynconv.pixel_sum.default" in names.seen
    torch.testing.assert_close(x.grad, y.grad)


def test_passes_torchs_own_checks() -> None:
    x = torch.randn(2, 3, 4, 5).bfloat16().requires_grad_()
    torch.library.opcheck(torch.ops.dynconv.pixel_sum.default, (x,))


@pytest.mark.parametrize("x", [torch.ones(2, 3, 4, 5), torch.ones(3, 4, 5).bfloat16()])
def test_what_it_cannot_sum_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="pixel_sum: needs bfloat16"):
        pixel_sum(x)


class _Names(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(str(function))
        return function(*args, **(kwargs or {}))


def test_the_module_can_be_loaded_again() -> None:
    """As by Jupyter's %autoreload, whose users would see torch refuse a second operator of the same name."""
    again = importlib.reload(sys.modules["dynconv.layer.ops.pixel_sum"])

    x = torch.randn(2, 3, 4, 5).bfloat16().requires_grad_()
    again.pixel_sum(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
