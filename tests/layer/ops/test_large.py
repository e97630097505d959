"""Arrays of more than 2^31 numbers: their last image is computed as it is by itself. `make test-large` runs these.

All but the last image is zeros that nothing has written yet, which take address space but hardly any memory.
"""

import numpy as np
import pytest
import torch
from operators import needs_operators
from torch import Tensor

from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops.pixel_sum import pixel_sum

pytestmark = pytest.mark.large

SIDE, CHANNELS = 64, 64
STORED_AS = {torch.bfloat16: np.uint16, torch.float32: np.float32}


def large(dtype: torch.dtype) -> Tensor:
    """Images in channels_last, zero but for the last one."""
    images = 2**31 // (CHANNELS * SIDE * SIDE) + 1
    try:
        zeros = np.zeros((images, SIDE, SIDE, CHANNELS), STORED_AS[dtype])
    except MemoryError:
        pytest.skip(f"the system gives no {images * CHANNELS * SIDE**2 * dtype.itemsize / 1e9:.1f} GB of address space")
    stored = torch.from_numpy(zeros)
    x = (stored if stored.dtype == dtype else stored.view(dtype)).permute(0, 3, 1, 2)
    x[-1] = torch.randn(CHANNELS, SIDE, SIDE).to(dtype)
    return x


@pytest.mark.parametrize(
    ("algorithm", "dtype", "kernel", "stride", "depthwise"),
    [
        ("fused", torch.bfloat16, 1, 2, False),
        ("winograd", torch.float32, 3, 1, False),
        ("depthwise", torch.bfloat16, 3, 4, True),
    ],
)
def test_operators(algorithm: str, dtype: torch.dtype, kernel: int, stride: int, depthwise: bool) -> None:
    needs_operators(algorithm)
    torch.manual_seed(0)
    x = large(dtype)
    groups, outs = (CHANNELS, CHANNELS) if depthwise else (1, 8)
    weight = torch.randn(2, outs, CHANNELS // groups, kernel, kernel).to(dtype).requires_grad_()
    a = torch.zeros(len(x), 2)
    a[-1] = torch.tensor([0.3, 0.7])
    options = {"stride": stride, "padding": kernel // 2, "groups": groups, "algorithm": algorithm}

    def last(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        out = mix_convolutions(x, weight, a, **options)[-1]
        return out.detach(), torch.autograd.grad(out.float().square().sum(), weight)[0]

    for found, expected in zip(last(x, a), last(x[-1:], a[-1:]), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


def test_sum_over_pixels() -> None:
    needs_operators()
    x = large(torch.bfloat16)

    assert torch.equal(pixel_sum(x)[-1], pixel_sum(x[-1:])[0])
