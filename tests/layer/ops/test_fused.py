"""The operator's registration, determinism, memory and choice; its values are tested in test_mixing.py."""

import subprocess
import sys

import pytest
import torch
from operators import needs_operators

from dynconv.layer import DynamicConv2d
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import fused


def inputs(dtype: torch.dtype = torch.float32, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 8, 12, 12).to(dtype).requires_grad_(),
        torch.randn(2, 16, 8 // groups, 3, 3).to(dtype).requires_grad_(),
        torch.rand(3, 2, requires_grad=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 4)])
def test_is_registered_as_torch_wants_it(dtype: torch.dtype, stride: int, groups: int) -> None:
    needs_operators("fused")
    torch.library.opcheck(
        fused.fused.forward,
        (*inputs(dtype, groups), stride, 1),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_bits_every_time(dtype: torch.dtype, groups: int) -> None:
    needs_operators("fused")
    x, weight, a = inputs(dtype, groups)

    def run() -> list[torch.Tensor]:
        out = mix_convolutions(x, weight, a, padding=1, groups=groups, algorithm="fused")
        return [out, *torch.autograd.grad(out.float().square().sum(), (x, weight, a))]

    for first, again in zip(run(), run(), strict=True):
        assert torch.equal(first, again)


def test_routing_weights_are_not_rounded_under_autocast() -> None:
    """1 + 2^-10 is no bf16 number; rounded to 1 it would leave no difference between the two experts."""
    needs_operators("fused")
    x, weight, _ = inputs()
    experts = torch.stack((weight[0], -weight[0]))
    a = torch.tensor([[1 + 2**-10, 1.0]]).expand(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = mix_convolutions(x, experts, a, padding=1, algorithm="fused")

    expected = torch.nn.functional.conv2d(x, weight[0], padding=1) * 2**-10
    assert (out.float() - expected).norm() < 0.01 * expected.norm()


MEMORY = """
import resource, torch
from dynconv.layer.ops import fused
from dynconv.layer.mixing import mix_convolutions
def pass_(n):
    x, a = torch.zeros(n, 256, 2, 2, requires_grad=True), torch.full((n, 2), 0.5, requires_grad=True)
    mix_convolutions(x, weight, a, padding=1, algorithm="fused").sum().backward()
weight = torch.zeros(2, 256, 256, 3, 3, requires_grad=True)
pass_(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pass_(512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_no_memory_for_a_kernel_of_each_image() -> None:
    needs_operators("fused")
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)

    assert int(found.stdout) < 200 * 1024  # KiB; 512 mixed kernels would take 1152 MiB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "stride", "experts", "inference", "training"),
    [
        (128, 32, 3, 1, 4, "fused", "fused"),
        (128, 2, 3, 2, 4, "fused", "fused"),
        (128, 4, 1, 1, 4, "fused", "unfold"),
        (128, 4, 3, 1, 1, "input", "input"),
        (128, 4, 3, 2, 1, "fused", "fused"),
        (128, 32, 3, 1, 1, "fused", "fused"),
        (128, 128, 3, 1, 4, "depthwise", "depthwise"),
    ],
)
def test_auto_takes_it_for_groups_where_it_was_measured_to_be_faster(
    dtype: torch.dtype,
    channels: int,
    groups: int,
    kernel: int,
    stride: int,
    experts: int,
    inference: str,
    training: str,
) -> None:
    needs_operators("fused", "depthwise")
    layer = DynamicConv2d(
        channels, channels, kernel, stride, padding=kernel // 2, groups=groups, experts=experts, dtype=dtype
    )
    found = layer.explain_algorithm((8, channels, 28, 28))

    assert found.chosen == training
    assert "ms expected" not in str(found)  # the model does not know groups
    assert layer.explain_algorithm((8, channels, 28, 28), training=False).chosen == inference
