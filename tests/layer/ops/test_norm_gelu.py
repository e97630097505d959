"""Pooling, normalisation and GELU in one operator: torch's results, as exactly as float64 says, for any threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import needs_operators
from torch import Tensor
from torch.nn import functional as F

from dynconv.layer.ops.norm_gelu import norm_gelu


@pytest.fixture(autouse=True)
def _operators() -> None:
    needs_operators()


def drawn(shape: tuple[int, ...], *, spread: float = 1.5, centre: float = 0.3) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * spread + centre
    return x.to(memory_format=torch.channels_last)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    pooled = F.max_pool2d(x, pool) if pool > 1 else x
    return F.gelu(F.batch_norm(pooled, None, None, weight, bias, training=True, eps=1e-5))


def gradients(function: object, x: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, bias = x.clone(memory_format=torch.preserve_format).requires_grad_(), bias.clone().requires_grad_()
    y = function(x, bias)  # type: ignore[operator]
    y.backward(grad.to(y.dtype))
    assert x.grad is not None and bias.grad is not None
    return y.detach().double(), x.grad.double(), bias.grad.double()


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(3, 11), st.integers(3, 9))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 3), st.floats(-50, 50), st.booleans())
def test_it_is_as_exact_as_float32(shape: tuple[int, ...], pool: int, centre: float, channels_last: bool) -> None:
    x = drawn(shape, centre=centre)
    x = x if channels_last else x.contiguous()
    channels = shape[1]
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    size = (shape[0], channels, shape[2] // pool, shape[3] // pool)
    if size[0] * size[2] * size[3] < 4:  # of so few numbers, the variance may be almost nothing
        return
    grad = torch.randn(size, generator=torch.Generator().manual_seed(1))
    exact = gradients(lambda x, b: by_torch(x, weight.double(), b, pool), x.double(), bias.double(), grad)
    found = gradients(lambda x, b: norm_gelu(x, weight, b, 1e-5, pool)[0], x, bias, grad)

    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=2e-5 * (1 + abs(centre)))
    scale = float(exact[1].abs().max()) + 1e-3
    torch.testing.assert_close(found[1], exact[1], rtol=1e-4, atol=1e-4 * scale * (1 + abs(centre)))
    torch.testing.assert_close(found[2], exact[2], rtol=1e-4, atol=1e-4 * grad.numel() ** 0.5 * (1 + abs(centre)))


@pytest.mark.parametrize("pool", [1, 2])
def test_in_bfloat16_it_is_torchs_up_to_rounding(pool: int) -> None:
    x, bias, weight = drawn((20, 24, 8, 8)).bfloat16(), torch.randn(24), torch.ones(24)
    grad = torch.randn(20, 24, 8 // pool, 8 // pool)
    wide = gradients(lambda x, b: by_torch(x, weight, b, pool), x.float(), bias, grad.bfloat16().float())
    found = gradients(lambda x, b: norm_gelu(x, weight, b, 1e-5, pool)[0], x, bias, grad)

    for one, other in zip(found, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-7)


def test_mean_and_variance_are_those_of_what_is_normalised() -> None:
    x = drawn((6, 5, 7, 9), spread=0.01, centre=100.0)
    _, mean, variance = norm_gelu(x, torch.ones(5), torch.zeros(5), 1e-5, 2)
    exact = F.max_pool2d(x.double(), 2)

    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var((0, 2, 3), unbiased=False), rtol=1e-3, atol=0)
    assert not mean.requires_grad and not variance.requires_grad


def test_of_equal_numbers_the_first_gets_the_gradient() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x[:, :, 2:, 2:] = 1.0
    weight, bias = torch.ones(3), torch.zeros(3)
    grad = torch.randn(2, 3, 2, 2)

    torch.testing.assert_close(
        gradients(lambda x, b: norm_gelu(x, weight, b, 1e-5, 2)[0], x, bias, grad)[1],
        gradients(lambda x, b: by_torch(x, weight, b, 2), x, bias, grad)[1],
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_what_is_not_finite_stays_so(value: float, place: tuple[int, int]) -> None:
    x = drawn((2, 3, 4, 4))
    x[1, 2, place[0], place[1]] = value
    out, *_ = norm_gelu(x, torch.ones(3), torch.zeros(3), 1e-5, 2)

    assert out[:, :2].isfinite().all() and out[:, 2].isnan().any()


def test_gelu_far_from_zero() -> None:
    """z = -40 ... 40, by a batch of two values and a large scale."""
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 81, 1, 1).contiguous()
    x = torch.cat([x, x])
    bias = torch.linspace(-40, 40, 81)
    out, *_ = norm_gelu(x, torch.ones(81), bias, 1e-12, 1)
    z = x.double() + bias.double()[:, None, None]

    torch.testing.assert_close(out.double(), F.gelu(z), rtol=2e-6, atol=1e-6)


def test_the_number_of_threads_changes_nothing() -> None:
    x, bias, grad = drawn((37, 40, 6, 6)), torch.randn(40), torch.randn(37, 40, 3, 3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(lambda x, b: norm_gelu(x, torch.ones(40), b, 1e-5, 2)[0], x, bias, grad))
    finally:
        torch.set_num_threads(before)

    assert all(torch.equal(one, other) for each in found[1:] for one, other in zip(found[0], each, strict=True))


def test_only_what_is_needed_is_computed() -> None:
    x, bias = drawn((4, 3, 4, 4)), torch.zeros(3, requires_grad=True)
    norm_gelu(x, torch.ones(3), bias, 1e-5, 2)[0].sum().backward()
    assert bias.grad is not None

    x.requires_grad_()
    norm_gelu(x, torch.ones(3), torch.zeros(3), 1e-5, 1)[0].sum().backward()
    assert x.grad is not None
