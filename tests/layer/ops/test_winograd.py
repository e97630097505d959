"""The operator's registration and rounding; its values are tested in test_mixing.py."""

import pytest
import torch
from operators import needs_operators

from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import winograd


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 8, 12, 12, requires_grad=True),
        torch.randn(2, 16, 8, 3, 3, requires_grad=True),
        torch.rand(3, 2, requires_grad=True),
    )


@pytest.mark.parametrize("tile", [2, 7])
def test_is_registered_as_torch_wants_it(tile: int) -> None:
    needs_operators("winograd")
    torch.library.opcheck(
        winograd.winograd.forward,
        (*inputs(), 1, tile),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize(("tile", "most"), [(2, 5e-7), (3, 1.5e-6), (4, 2e-6), (5, 5e-6), (6, 6e-6), (7, 2e-5)])
def test_rounding_errors(tile: int, most: float) -> None:
    """Root mean square, relative to the output's standard deviation, as the documentation states them."""
    needs_operators("winograd")
    torch.manual_seed(0)
    x, weight, a = torch.randn(20, 64, 14, 14), torch.randn(1, 64, 64, 3, 3), torch.ones(20, 1)
    exact = torch.nn.functional.conv2d(x.double(), weight[0].double(), padding=1)

    error = winograd.winograd(x, weight, a, 1, tile) - exact

    assert error.square().mean().sqrt() <= most * exact.std()


def test_same_bits_every_time() -> None:
    needs_operators("winograd")
    x, weight, a = inputs()

    def run() -> list[torch.Tensor]:
        out = mix_convolutions(x, weight, a, padding=1, algorithm="winograd")
        return [out, *torch.autograd.grad(out.square().sum(), (x, weight, a))]

    for first, again in zip(run(), run(), strict=True):
        assert torch.equal(first, again)
