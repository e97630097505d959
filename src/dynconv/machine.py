"""This machine: its processor, cores and memory, and the device and precision that `auto` picks on it.

Training and inference both use this module, so a network is evaluated in the precision that it was trained in.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import torch

from dynconv import layer
from dynconv.errors import DynconvError
from dynconv.layer.ops import processor as layer_processor

Precision = Literal["fp32", "bf16", "fp16"]
RequestedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
"""What a configuration asks for; see `pick_precision` for what `auto` stands for."""

_WITH_TENSOR_CORES = (7, 0)  # compute capability: Volta, and Turing, as the T4
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def pick_device(name: str) -> torch.device:
    """The device `cpu`, `cuda` or `mps`; for `auto` the first of cuda, mps, cpu that is available.

    Raises:
        DynconvError: this machine or this build of torch does not have the device.
    """
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, is_available in kinds.items() if is_available]
    if name != "auto" and name not in available:
        raise DynconvError(f"device: {name} is not available here (available: {', '.join(available)})")
    return torch.device(available[0] if name == "auto" else name)


def pick_precision(name: str, device: torch.device) -> tuple[Precision, str]:
    """The precision to compute in, and the reason in words.

    `auto` picks bf16 only if the device multiplies it natively, and on a GPU that does not, fp16 if it has units for
    that. What was trained in fp16 on a GPU is computed on other devices as by `auto`.
    """
    if name == "fp32":
        return "fp32", "requested"
    if name == "bf16":
        return "bf16", "requested"
    if name == "fp16" and device.type == "cuda":
        return "fp16", "requested"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU multiplies bf16 natively"
        if torch.cuda.get_device_capability(device) >= _WITH_TENSOR_CORES:
            return "fp16", "this GPU would only emulate bf16, but has tensor cores for fp16"
        return "fp32", "this GPU would only emulate bf16"
    if device.type == "mps":
        return "fp32", "bf16 has not been found to be faster on MPS"
    native = sorted(instruction_sets() & {"avx512_bf16", "amx_bf16"})
    if native:
        return "bf16", f"this processor multiplies bf16 natively ({', '.join(native)})"
    return "fp32", "this processor does not multiply bf16 natively, so bf16 would be slower"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context manager that makes a network compute in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


def instruction_sets() -> set[str]:
    """The processor's instruction sets; see `dynconv.layer.instruction_sets`.

    Raises:
        DynconvError: DYNCONV_CPU has an unknown value.
    """
    try:
        return layer.instruction_sets()
    except ValueError as error:
        raise DynconvError(str(error)) from error


def processor() -> str:
    """The name of the processor; "unknown" if the system does not say."""
    return layer_processor.name()


def usable_cores() -> int:
    """Number of cores that this process may use: its affinity, limited in a container by its quota, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _control_group("cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        return max(1, min(affinity, -(-int(quota) // int(period))))
    return affinity


def available_memory() -> int | None:
    """Bytes of memory available to a new program, within a container's limit; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    limit, used = _control_group("memory.max"), _control_group("memory.current")
    return min(free, max(0, int(limit) - int(used))) if limit.isdecimal() and used.isdecimal() else free


def _control_group(name: str) -> str:
    """The content of a file of a container's control group (version 2); empty elsewhere."""
    try:
        return (_CONTROL_GROUP / name).read_text().strip()
    except OSError:
        return ""
