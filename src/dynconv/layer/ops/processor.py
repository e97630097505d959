"""The processor's instruction sets, and how `DYNCONV_CPU` holds them down.

DYNCONV_CPU=avx2    our operators are compiled without AVX-512 and AMX; for x86 processors only
DYNCONV_CPU=none    our operators are not used
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

VARIABLE = "DYNCONV_CPU"
_LIMITS = ("avx2", "none")
_BEYOND_AVX2 = ("avx512", "avx10", "amx")
_X86 = ("x86_64", "amd64", "i386", "i686")
_X86_64_V3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}


def limit() -> str:
    """The value of DYNCONV_CPU; empty if it is not set.

    Raises:
        ValueError: an unknown value, or one that this kind of processor does not have.
    """
    value = os.environ.get(VARIABLE, "")
    if value and value not in _LIMITS:
        raise ValueError(f"{VARIABLE}={value} is not known; set it to {' or '.join(_LIMITS)}, or unset it")
    if value == "avx2" and platform.machine().lower() not in _X86:
        raise ValueError(f"{VARIABLE}=avx2 is for x86, not for {platform.machine()}; set it to none, or unset it")
    return value


def instruction_sets() -> set[str]:
    """The processor's flags as Linux names them (avx2, avx512_bf16, ...), less those that DYNCONV_CPU=avx2 rules out.

    Empty where the system does not list them.

    Raises:
        ValueError: see `limit`.
    """
    flags = _flags()
    return {flag for flag in flags if not flag.startswith(_BEYOND_AVX2)} if limit() == "avx2" else flags


def compiler_flag() -> str:
    """The option by which a C++ compiler uses these instruction sets.

    Raises:
        ValueError: see `limit`.
    """
    flags = _flags()
    if limit() == "avx2" and (not flags or flags >= _X86_64_V3):
        return "-march=x86-64-v3"
    return "-march=native"  # also where the processor has less than AVX2


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return set(line.partition(":")[2].split())
