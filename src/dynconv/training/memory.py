"""The memory that training takes: estimated before any of it is allocated, and named when there was too little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dynconv.errors import DynconvError
from dynconv.machine import available_memory
from dynconv.model.cost import Row
from dynconv.training.config import TrainConfig


class OutOfMemoryError(DynconvError):
    """Training found too little memory."""


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Whether an error says that there was too little memory, on a GPU or in the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def require_memory(config: TrainConfig, rows: Sequence[Row], images: int, device: torch.device) -> None:
    """Refuses a network that the device cannot hold. Does nothing where the system does not say how much is available.

    Args:
        rows: the layers of the network, for the largest training images.
        images: number of training images.

    Raises:
        DynconvError: with both figures, and the fields to lower.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    weights, outputs = estimate(config, rows, images)
    if free is None or weights + outputs <= free:
        return
    fields = "model.widths, model.experts or model.kernel_sizes" if weights > outputs else "micro_batch or model.widths"
    raise DynconvError(
        f"training this network takes at least {_gigabytes(weights + outputs)} of memory, and {_gigabytes(free)} are "
        f"available; lower {fields}"
    )


def estimate(config: TrainConfig, rows: Sequence[Row], images: int) -> tuple[int, int]:
    """Bytes of the weights with all that is kept for each, and of the outputs that the backward pass needs.

    Both are less than what training really takes: of a block, only the experts' outputs are counted, in 16 bits.
    """
    kept = 3 + (config.optim.name == "adamw") + (config.optim.ema > 0)  # weight, gradient, momentum
    values = sum(math.prod(row.shape) for row in rows if row.part == "experts")
    micro_batch = min(config.micro_batch, config.batch_size, images)
    return 4 * kept * sum(row.parameters for row in rows), 2 * micro_batch * values


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
