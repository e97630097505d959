"""The operators on an ARM processor: cross-compiled, and run in emulation on what they were called with here."""

import ctypes
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import library, pixel_sum, targets
from dynconv.model.block_end import pool_norm_act

COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
MISSING = [name for name in (COMPILER, EMULATOR) if not shutil.which(name)]
OPS = Path(library.__file__).parent
(NEON,) = targets.TARGETS["aarch64"]

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs {', '.join(MISSING)}; not tested: the operators on ARM processors"
    ),
]


@dataclass
class Call:
    """A call of a function of an operator: its arrays before it, and afterwards."""

    source: Path
    function: str
    integers: tuple[int, ...]
    before: list[Tensor | None]
    after: list[Tensor | None]

    def packed(self) -> bytes:
        """As call.cpp reads it."""
        name = self.function.encode()
        parts = [
            struct.pack("q", len(name)),
            name,
            struct.pack(f"{len(self.integers) + 1}q", len(self.integers), *self.integers),
        ]
        parts.append(struct.pack("q", len(self.before)))
        for array in self.before:
            content = b"" if array is None else bytes_of(array)
            parts += [struct.pack("q", -1 if array is None else len(content)), content]
        return b"".join(parts)


def bytes_of(array: Tensor) -> bytes:
    """Its memory, in whatever order its elements lie there."""
    return ctypes.string_at(array.data_ptr(), array.numel() * array.element_size())


def in_memory(array: Tensor, content: bytes) -> Tensor:
    """A tensor of the type of `array`, of the memory's elements in their order."""
    return torch.frombuffer(bytearray(content), dtype=array.dtype)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Those that are made from now on."""
    made: list[Call] = []
    original = library.Library.call

    def record(self: Any, function: str, integers: tuple[int, ...], *arrays: Tensor | None) -> None:
        def copies() -> list[Tensor | None]:
            return [
                None if array is None else array.detach().clone(memory_format=torch.preserve_format) for array in arrays
            ]

        before = copies()
        original(self, function, integers, *arrays)
        made.append(Call(self._source, function, integers, before, copies()))

    monkeypatch.setattr(library.Library, "call", record)
    return made


def use_all_operators() -> None:
    torch.manual_seed(0)

    def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        x = torch.randn(shape).to(dtype)
        return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()

    for algorithm, dtype, kernel, groups in (
        ("fused", torch.float32, 3, 1), ("fused", torch.float32, 1, 1), ("fused", torch.bfloat16, 3, 1),
        ("fused", torch.float32, 3, 4), ("winograd", torch.float32, 3, 1), ("depthwise", torch.float32, 3, 40),
        ("depthwise", torch.bfloat16, 3, 40),
    ):  # fmt: skip
        x, weight = (
            drawn(5, 40, 9, 11, dtype=dtype),
            drawn(3, 40, 40 // groups, kernel, kernel, dtype=dtype),
        )
        routing = torch.rand(5, 3, requires_grad=True)
        mixed = mix_convolutions(x, weight, routing, padding=kernel // 2, groups=groups, algorithm=algorithm)
        torch.autograd.grad(mixed.float().square().sum(), (x, weight, routing))
    pixel_sum.pixel_sum(drawn(5, 40, 9, 11, dtype=torch.bfloat16).detach())
    for dtype in (torch.float32, torch.bfloat16):
        x = drawn(6, 36, 8, 10, dtype=dtype)
        norm = nn.BatchNorm2d(36)
        norm.weight.requires_grad_(False)
        out = pool_norm_act(x, nn.MaxPool2d(2), norm, nn.GELU())
        torch.autograd.grad(out.float().square().sum(), x)


def test_they_compute_the_same_on_an_arm_processor(calls: list[Call], tmp_path: Path) -> None:
    use_all_operators()
    sources = sorted({call.source for call in calls})
    assert sources == sorted(OPS.glob("*.cpp")), "each operator was called"
    caller = tmp_path / "call"
    subprocess.run(
        [COMPILER, "-std=c++17", "-O1", Path(__file__).with_name("call.cpp"), "-o", caller, "-ldl"], check=True
    )

    for source in sources:
        built, asked, answered = (tmp_path / f"{source.stem}.{ending}" for ending in ("so", "calls", "results"))
        subprocess.run([COMPILER, *targets.FLAGS, *NEON.flags, source, "-o", built], check=True)
        own = [call for call in calls if call.source == source]
        asked.write_bytes(struct.pack("q", len(own)) + b"".join(call.packed() for call in own))
        words = [EMULATOR, "-L", SYSTEM, caller, built, asked, answered]
        subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})

        content = answered.read_bytes()
        for call in own:
            for number, array in enumerate(call.after):
                if array is None:
                    continue
                size = array.numel() * array.element_size()
                found, content = in_memory(array, content[:size]), content[size:]
                close = {torch.bfloat16: 2e-2, torch.float32: 2e-3}.get(array.dtype, 0.0)
                expected = in_memory(array, bytes_of(array))
                error = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
                assert error <= close, f"{call.function}, array {number}: {error:.2g}"
        assert not content
