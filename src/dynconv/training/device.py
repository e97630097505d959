"""The process that trains: device and precision through lightning-fabric, the data placed, the allocator set."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from lightning_fabric import Fabric

from dynconv.config import RunConfig
from dynconv.data.dataset import Split
from dynconv.machine import pick_device, pick_precision


def launch(config: RunConfig) -> tuple[Any, str]:
    """The Fabric that places the network and runs its backward passes, and the precision: fp32 or bf16.

    Raises:
        DynconvError: a device that is not there.
    """
    device = pick_device(config.device)
    precision, _ = pick_precision(config.precision, device)
    fabric = Fabric(accelerator=device.type, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")
    fabric.launch()
    return fabric, precision


def place(split: Split, device: torch.device) -> Split:
    """The split with its images and labels on `device`; uint8, so CIFAR-10 takes 180 MB.

    Where that would take more than half of what is free on a GPU, which the network needs too, it stays where it is.
    """
    if device.type == "cuda" and 2 * split.images.nbytes > torch.cuda.mem_get_info(device)[0]:
        return split
    return Split(split.images.to(device), split.labels.to(device))


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep large freed blocks for the next step.

    Taking them anew from the system costs a page fault per 4 KiB, in small networks as long as the arithmetic.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
