"""The operator's registration; its values are tested in test_mixing.py."""

import pytest
import torch
from operators import needs_operators

from dynconv.layer import DynamicConv2d
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import depthwise


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 40, 12, 12).to(dtype).requires_grad_(),
        torch.randn(2, 40, 1, 3, 5).to(dtype).requires_grad_(),
        torch.rand(3, 2, requires_grad=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_registered_as_torch_wants_it(dtype: torch.dtype) -> None:
    needs_operators("depthwise")
    torch.library.opcheck(
        depthwise.depthwise.forward,
        (*inputs(dtype), 2, 1, 1, 2, 1, 2),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    needs_operators("depthwise")
    x, weight, a = inputs(dtype)

    def run() -> list[torch.Tensor]:
        out = mix_convolutions(x, weight, a, padding=1, groups=40, algorithm="depthwise")
        return [out, *torch.autograd.grad(out.float().square().sum(), (x, weight, a))]

    for first, again in zip(run(), run(), strict=True):
        assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("experts", "stride", "dtype", "expected"),
    [
        (4, 1, torch.float32, "depthwise"),
        (4, 2, torch.float32, "depthwise"),
        (1, 1, torch.float32, "input"),
        (4, 1, torch.bfloat16, "depthwise"),
        (1, 2, torch.bfloat16, "depthwise"),
    ],
)
def test_auto_takes_it_where_it_was_measured_to_be_faster(
    experts: int, stride: int, dtype: torch.dtype, expected: str
) -> None:
    needs_operators("depthwise")
    layer = DynamicConv2d(40, 40, 3, stride, padding=1, groups=40, experts=experts, dtype=dtype)

    assert layer.explain_algorithm((8, 40, 24, 24)).chosen == expected
    for groups in (1, 20):
        other = DynamicConv2d(40, 40, 3, stride, padding=1, groups=groups, experts=experts, dtype=dtype)
        assert other.explain_algorithm((8, 40, 24, 24)).chosen != "depthwise"
