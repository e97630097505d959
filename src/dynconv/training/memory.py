"""The memory that training takes: estimated beforehand, fitted into what is free, and named when it was too little."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.machine import autocast, available_memory, pick_precision
from dynconv.model.cost import Row
from dynconv.model.net import Net
from dynconv.training.config import TrainConfig

logger = logging.getLogger(__name__)

_SHARE = 0.8
"""Of the free memory, what a micro-batch may take."""

_WORKSPACES = 100 * 2**20
"""What convolutions take for themselves, in bytes."""

_COUNTED = 4
"""Images of the forward pass in which bytes are counted."""


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
    free = free_memory(device)
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
    kept = _kept_per_weight(config)
    values = sum(math.prod(row.shape) for row in rows if row.part == "experts")
    at_once = 1 if config.micro_batch == "auto" else min(config.micro_batch, config.batch_size, images)
    return 4 * kept * sum(row.parameters for row in rows), 2 * at_once * values


def fitting_micro_batch(config: TrainConfig, dataset: Dataset, device: torch.device, processes: int = 1) -> TrainConfig:
    """With micro_batch `auto`, the configuration with the largest one that fits into the memory that is free; says so.

    The whole batch where the system does not say how much is free.

    Args:
        processes: so many share a micro-batch, each with at least one image; on a CPU they also share the memory.

    Raises:
        DynconvError: not even one image for each process fits.
    """
    if config.micro_batch != "auto":
        return config
    batch = min(config.batch_size, len(dataset.train.labels))
    fixed, each = _needed(config, len(dataset.classes), device)
    free = free_memory(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, images = free_memory(device), dataset.train.images.nbytes
        if free is not None and 2 * images <= free:  # then `process.place` puts them there
            fixed += images
    else:
        fixed *= processes
    room = math.inf if free is None else _SHARE * free - fixed
    # The batch is divided evenly, but where it is all images of a small set; not even then if processes share it.
    divided = config.batch_size if processes == 1 else math.gcd(batch, config.batch_size)
    divisors = [n for n in range(1, divided + 1) if divided % n == 0 and n < batch]
    fits = [n for n in (*divisors, config.batch_size) if n >= processes and min(n, batch) * each <= room]
    if not fits:
        raise DynconvError(
            f"training this network takes about {_gigabytes(fixed + processes * each)} of memory with the smallest "
            f"micro_batch, and {_gigabytes(free or 0)} are available; lower model.widths, model.experts or image_sizes"
        )
    at_once = min(fits[-1], batch)
    known = "; this system does not say how much is free" if free is None else f" of {_gigabytes(free)} available"
    logger.info("micro_batch: %d images at a time, about %s%s", at_once, _gigabytes(fixed + at_once * each), known)
    return config.model_copy(update={"micro_batch": fits[-1]})


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory available on a device; None where the system does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _needed(config: TrainConfig, classes: int, device: torch.device) -> tuple[int, int]:
    """Bytes that training takes in any case, and for each image of a micro-batch; somewhat more than it does.

    What the backward pass needs is counted in a forward pass at the largest size. On a CPU training takes 1.6 to 1.8
    times as much for each image, with gradients and workspaces.

    Raises:
        OutOfMemoryError: not even that fits.
    """
    side = max(config.image_sizes)
    precision, _ = pick_precision(config.precision, device)
    try:
        with torch.random.fork_rng(devices=[]), autocast(device, precision):
            net = Net(config.model, classes).to(device)
            x_NCHW = torch.rand(_COUNTED, 3, side, side).to(device)
            net.input.fit(x_NCHW)
            fewer, more = (_saved_bytes(net, x_NCHW[:count]) for count in (_COUNTED // 2, _COUNTED))
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemoryError(
            f"out of memory with {_COUNTED} images; lower model.widths, model.experts or image_sizes"
        ) from error
    weights = sum(parameter.numel() for parameter in net.parameters())
    kept = _kept_per_weight(config) + 1
    return 4 * kept * weights + _WORKSPACES, max(1, 2 * (more - fewer) // (_COUNTED - _COUNTED // 2))


def _saved_bytes(net: Net, x_NCHW: Tensor) -> int:
    """Bytes of the tensors that the backward pass will need, parameters aside."""
    kept: dict[int, Tensor] = {}  # holds them, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x_NCHW)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _kept_per_weight(config: TrainConfig) -> int:
    return 3 + (config.optim.name == "adamw") + (config.optim.ema > 0)  # weight, gradient, momentum


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
