"""Where to compute and in which precision: what `auto` means, and why.

Training and inference both ask here, so that a network is evaluated in the precision in which it was
trained.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import torch

from dynconv.errors import DynconvError

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `mps`; for `auto` the first that is there of cuda, mps, cpu.

    Raises:
        DynconvError: a device that this machine or this torch does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, is_there in there.items() if is_there]
    if name != "auto" and name not in available:
        raise DynconvError(f"device: {name} is not available here (available: {', '.join(available)})")
    return torch.device(available[0] if name == "auto" else name)


def pick_precision(name: str, device: torch.device) -> tuple[Precision, str]:
    """`fp32` or `bf16`, and the reason in words. `auto` takes bf16 only where it is multiplied natively."""
    if name == "fp32":
        return "fp32", "asked for"
    if name == "bf16":
        return "bf16", "asked for"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU multiplies bf16 natively"
        return "fp32", "this GPU would only emulate bf16"
    if device.type == "mps":
        return "fp32", "nothing is known to be gained from bf16 on MPS"
    native = sorted(instruction_sets() & {"avx512_bf16", "amx_bf16"})
    if native:
        return "bf16", f"this processor multiplies bf16 natively ({', '.join(native)})"
    return "fp32", "this processor has no native bf16 multiplication, with which bf16 is slower than fp32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def instruction_sets() -> set[str]:
    """The processor's flags as Linux names them (avx2, avx512_bf16, ...); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return set(flags.split(":", 1)[1].split())
