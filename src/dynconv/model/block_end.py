"""The end of a block: max pooling, batch normalisation, activation. On a CPU one operator computes all three.

Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dynconv.layer.ops.norm_gelu import applies, norm_gelu, norm_gelu_by


def pool_norm_act(x_NCHW: Tensor, pool: nn.Module, norm: nn.Module, act: nn.Module) -> Tensor:
    """act(norm(pool(x))). Where one operator computes the same, it does, in less time and memory."""
    side = _side(pool)
    # The map first: where torch.fx traces there is none, and nothing else may be asked.
    if side == 0 or not _can(x_NCHW, side) or not _is_plain(norm, x_NCHW.shape[1]) or not _is_gelu(act):
        return cast("Tensor", act(norm(pool(x_NCHW))))
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    if not norm.training:
        return norm_gelu_by(x_NCHW, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps, side)
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    out_NCHW, mean_C, variance_C = norm_gelu(x_NCHW, norm.weight, norm.bias, norm.eps, side)
    count = out_NCHW.numel() // out_NCHW.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked += 1
    return out_NCHW


def _side(pool: nn.Module) -> int:
    """Of a pooling that the operator computes; 1 for none, 0 for another."""
    if type(pool) is nn.Identity and not _watched(pool):
        return 1
    plain = type(pool) is nn.MaxPool2d and pool.kernel_size == pool.stride and not _watched(pool)
    if not plain or pool.padding or pool.dilation != 1 or pool.ceil_mode or not isinstance(pool.kernel_size, int):
        return 0
    return pool.kernel_size


def _is_plain(norm: nn.Module, channels: int) -> bool:
    """Whether it normalises over this process's batch and learns its bias alone, or nobody wants a gradient."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.num_features == channels  # else torch has something to say
        and (norm.training or not torch.is_grad_enabled())
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.affine
        and norm.weight.dtype == norm.bias.dtype == torch.float32
        and not norm.weight.requires_grad
        and not _watched(norm)
    )


def _is_gelu(act: nn.Module) -> bool:
    return type(act) is nn.GELU and act.approximate == "none" and not _watched(act)


def _can(x_NCHW: Tensor, side: int) -> bool:
    """Whether the operator can take this map."""
    if not isinstance(x_NCHW, Tensor) or not applies(x_NCHW, side):
        return False
    n, _, height, width = x_NCHW.shape
    return n * (height // side) * (width // side) > 1  # else torch has something to say in training


def _watched(module: nn.Module) -> bool:
    """Whether somebody waits for this module to be called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
