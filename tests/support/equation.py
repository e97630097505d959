"""The specification's equation, written out naively: K separate convolutions in float64."""

import torch
from torch import Tensor
from torch.nn import functional as F


def mixture(x: Tensor, experts: Tensor, a_NK: Tensor, bias_KO: Tensor | None = None, **convolution: int) -> Tensor:
    """O = a_1 Conv_1(X) + ... + a_K Conv_K(X), for x [N, C, *size] and experts [K, O, C / groups, *kernel]."""
    dims = x.dim() - 2
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    outputs = [
        convolve(x, expert, None if bias_KO is None else bias_KO[k], **convolution) for k, expert in enumerate(experts)
    ]
    return sum(a_NK[:, k].view(-1, *(1,) * (dims + 1)) * out for k, out in enumerate(outputs))  # type: ignore[return-value]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest expected value."""
    if expected.numel() == 0:
        return 0.0
    found, expected = found.detach(), expected.detach()
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def with_gradients(x: Tensor, inputs: list[Tensor], out: Tensor, direction: Tensor) -> list[Tensor]:
    """out, and the gradients of <out, direction> for x and the other inputs."""
    return [out, *torch.autograd.grad(out, [x, *inputs], direction)]
