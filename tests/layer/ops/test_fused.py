"""The operator's registration, determinism and memory; its values are tested in test_mixing.py."""

import subprocess
import sys

import pytest
import torch
from operators import needs_operators

from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import fused


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 8, 12, 12).to(dtype).requires_grad_(),
        torch.randn(2, 16, 8, 3, 3).to(dtype).requires_grad_(),
        torch.rand(3, 2, requires_grad=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_is_registered_as_torch_wants_it(dtype: torch.dtype, stride: int) -> None:
    needs_operators("fused")
    torch.library.opcheck(
        fused.fused.forward,
        (*inputs(dtype), stride, 1),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    needs_operators("fused")
    x, weight, a = inputs(dtype)

    def run() -> list[torch.Tensor]:
        out = mix_convolutions(x, weight, a, padding=1, algorithm="fused")
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
