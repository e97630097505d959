"""What a wheel's operators are compiled for, so that its users need no compiler. Needs the standard library alone.

A wheel for Linux on x86-64 or aarch64 holds each operator for several targets, in `prebuilt` beside this file, where
hatch_build.py puts them. build.py takes the first whose instruction sets the processor has. A file's name holds a
digest of its sources: where these have been changed, it is not taken, and the operator is compiled as without such a
wheel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

PREBUILT = Path(__file__).parent / "prebuilt"

# Not -ffast-math: linking with it flushes denormals to zero in the whole process.
FLAGS = (
    "-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip

X86_64_V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_X86_64_V4 = X86_64_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Target:
    """A kind of processor.

    Attributes:
        name: part of a library's file name.
        flags: the compiler's options for it.
        needs: instruction sets that the processor must have, as Linux names them.
    """

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]


_BF16 = ("-march=x86-64-v4", "-mavx512bf16")
TARGETS = {
    "x86_64": (
        Target("amx", (*_BF16, "-mamx-tile", "-mamx-bf16"), _X86_64_V4 | {"avx512_bf16", "amx_tile", "amx_bf16"}),
        Target("avx512bf16", _BF16, _X86_64_V4 | {"avx512_bf16"}),
        Target("v4", ("-march=x86-64-v4",), _X86_64_V4),
        Target("v3", ("-march=x86-64-v3",), X86_64_V3),
    ),
    "aarch64": (Target("neon", ("-march=armv8-a",), frozenset()),),
}
"""By machine, as `platform.machine` names it: the best first."""


def digest(source: Path) -> bytes:
    """Of an operator's C++ file and all headers beside it."""
    files = [source, *sorted(source.parent.glob("*.h"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def file_name(source: Path, target: Target) -> str:
    """Of the library of a C++ file for a target."""
    return f"{source.stem}-{target.name}-{digest(source).hex()[:16]}.so"


def find(source: Path, machine: str, instruction_sets: Collection[str], folder: Path = PREBUILT) -> Path | None:
    """The best library of a C++ file for a processor; None where there is none."""
    for target in TARGETS.get(machine, ()):
        if target.needs <= set(instruction_sets) and (found := folder / file_name(source, target)).is_file():
            return found
    return None
