"""The processor's name and instruction sets, and how `DYNCONV_CPU` holds these down.

DYNCONV_CPU=avx512  our operators are compiled without AMX; for x86 processors only
DYNCONV_CPU=avx2    neither with AVX-512; for x86 processors only
DYNCONV_CPU=none    our operators are not used
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dynconv.layer.ops.targets import X86_64_V3

VARIABLE = "DYNCONV_CPU"
_BEYOND = {"avx512": ("amx",), "avx2": ("avx512", "avx10", "amx")}
"""How the names of the flags begin that a limit rules out."""

_LIMITS = (*_BEYOND, "none")
_X86 = ("x86_64", "amd64", "i386", "i686")


def limit() -> str:
    """The value of DYNCONV_CPU; empty if it is not set.

    Raises:
        ValueError: an unknown value, or one that this kind of processor does not have.
    """
    value = os.environ.get(VARIABLE, "")
    if value and value not in _LIMITS:
        raise ValueError(f"{VARIABLE}={value} is not known; set it to {', '.join(_LIMITS[:-1])} or none, or unset it")
    if value in _BEYOND and platform.machine().lower() not in _X86:
        raise ValueError(f"{VARIABLE}={value} is for x86, not for {platform.machine()}; set it to none, or unset it")
    return value


def name() -> str:
    """What the processor is called; "unknown" if the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or "unknown")


def instruction_sets() -> set[str]:
    """The processor's flags as Linux names them (avx2, avx512_bf16, ...), less those that DYNCONV_CPU rules out.

    Empty where the system does not list them.

    Raises:
        ValueError: see `limit`.
    """
    return {flag for flag in _flags() if not flag.startswith(_BEYOND.get(limit(), ()))}


def compiler_flags() -> tuple[str, ...]:
    """The options by which a C++ compiler uses these instruction sets.

    Raises:
        ValueError: see `limit`.
    """
    flags = _flags()
    if limit() == "avx2" and (not flags or flags >= X86_64_V3):
        return ("-march=x86-64-v3",)
    native = "-march=native"  # also where the processor has less than AVX2
    amx = any(flag.startswith("amx") for flag in flags)
    return (native, "-mno-amx-tile") if limit() == "avx512" and amx else (native,)


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return set(line.partition(":")[2].split())
