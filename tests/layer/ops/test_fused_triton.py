"""The GPU's kernels of algorithm `fused`: run by Triton's interpreter against the equation in float64, compiled for
GPUs that need not be there, and run where there is one.

A process that imports triton with TRITON_INTERPRET=1 interprets every kernel from then on, so that happens in processes
of its own, which call `interpret`.
"""

import importlib.util
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from equation import mixture, with_gradients
from torch import Tensor

from dynconv.layer import choice
from dynconv.layer.geometry import Geometry
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import fused
from dynconv.layer.ops.operator import nhwc

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest error, relative to the largest sum of the absolute values of the products that make up a result."""

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install triton)"
)
ROUTINGS = {
    "random": torch.randn,
    "zero": torch.zeros,
    "one-hot": lambda n, k: torch.eye(k)[torch.arange(n) % k],
    "large": lambda n, k: 1e3 * torch.randn(n, k),
}


@dataclass(frozen=True)
class Case:
    n: int
    k: int
    c: int
    o: int
    height: int
    width: int
    side: int = 3
    stride: int = 1
    padding: int = 1
    routing: str = "random"
    input_grad: bool = True


EDGES = [
    Case(0, 2, 4, 4, 5, 5),
    Case(1, 1, 1, 1, 1, 1, side=1, padding=0),
    Case(3, 2, 33, 17, 1, 1, stride=2),
    Case(2, 2, 3, 3, 7, 6, side=1, stride=2, padding=0),
    Case(2, 3, 17, 70, 5, 4, stride=2, padding=2),
    Case(2, 9, 5, 6, 4, 4, padding=0),  # more experts than a program holds
    Case(1, 2, 3, 4, 12, 13),  # more pixels than a tile
    Case(3, 3, 4, 4, 6, 6, routing="zero"),
    Case(3, 3, 4, 4, 6, 6, routing="one-hot"),
    Case(3, 3, 4, 4, 6, 6, routing="large"),
    Case(2, 3, 4, 4, 6, 6, input_grad=False),
]


def some_cases(count: int, seed: int) -> list[Case]:
    pick = random.Random(seed)
    cases = []
    for _ in range(count):
        side = pick.choice([1, 3, 3])
        padding = pick.randrange(side)
        least = max(1, side - 2 * padding)
        cases.append(
            Case(
                n=pick.choice([1, 2, 3]),
                k=pick.randint(1, 5),
                c=pick.choice([1, 3, 8, 16, 35]),
                o=pick.choice([1, 3, 8, 16, 35]),
                height=pick.randint(least, 9),
                width=pick.randint(least, 9),
                side=side,
                stride=pick.choice([1, 2]),
                padding=padding,
            )
        )
    return cases


def compare(case: Case, dtype: torch.dtype, device: str) -> None:
    """The operator's value and gradients with those of the equation."""
    torch.manual_seed(0)
    x = torch.randn(case.n, case.c, case.height, case.width).to(dtype)
    weight = torch.randn(case.k, case.o, case.c, case.side, case.side).to(dtype)
    plain = [x, weight, ROUTINGS[case.routing](case.n, case.k)]
    geometry = {"stride": case.stride, "padding": case.padding}
    exact = [tensor.double().requires_grad_() for tensor in plain]
    absolute = [tensor.double().abs().requires_grad_() for tensor in plain]
    given = [tensor.to(device).requires_grad_() for tensor in plain]
    given[0].requires_grad_(case.input_grad)
    expected = mixture(*exact, **geometry)
    direction = torch.randn(expected.shape).to(dtype)
    out = fused.fused(*given, case.stride, case.padding)
    wanted = [tensor for tensor in given if tensor.requires_grad]
    found = [out, *torch.autograd.grad(out, wanted, direction.to(device))]
    if not case.input_grad:
        found.insert(1, None)
    for name, ours, theirs, scale in zip(
        ("output", "x", "experts", "routing"),
        found,
        with_gradients(exact[0], exact[1:], expected, direction.double()),
        with_gradients(absolute[0], absolute[1:], mixture(*absolute, **geometry), direction.double().abs()),
        strict=True,
    ):
        if ours is None:
            continue
        assert ours.shape == theirs.shape and ours.dtype == (torch.float32 if name == "routing" else dtype)
        assert torch.isfinite(ours).all(), (name, case)
        if scale.numel():
            assert (ours.cpu() - theirs).abs().max() <= TOLERANCE[dtype] * scale.max(), (name, case)


def interpret(*groups: str) -> None:
    """Called in a process of its own."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    from dynconv.layer.ops import fused_triton

    multiply = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:  # the interpreter keeps them as integers, and would multiply those
            a, b = self.cast_impl(a, tl.float32), self.cast_impl(b, tl.float32)
        return multiply(self, a, b, *rest)

    InterpreterBuilder.create_dot = create_dot
    fused._TYPES[torch.float16] = "float16"  # which the interpreter's processor is to take
    fused.fused.register_kernel("cpu", fused_triton.forward, fused_triton.gradients)
    if "edges" in groups:
        for case in EDGES:
            compare(case, torch.float32, "cpu")
    for dtype in [dtype for dtype in TOLERANCE if str(dtype).removeprefix("torch.") in groups]:
        for i, case in enumerate(some_cases(8, seed=dtype.itemsize)):
            fused_triton._PROGRAMS = (512, 1)[i % 2]  # images one by one, or all in one program
            compare(case, dtype, "cpu")
        fused_triton._PROGRAMS = 18  # two and one
        compare(Case(3, 2, 3, 3, 4, 4), dtype, "cpu")


@needs_triton
@pytest.mark.parametrize(
    "groups", [("edges", "float32"), pytest.param(("bfloat16", "float16"), marks=pytest.mark.large)]
)
def test_interpreted_kernels_agree_with_the_equation(groups: tuple[str, ...]) -> None:
    code = f"from test_fused_triton import interpret; interpret(*{groups})"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr


@needs_triton
@pytest.mark.parametrize("architecture", [80, 90])
def test_compiles_for_a_gpu(architecture: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be launched becomes machine code, multiplies on tensor cores, and has the shared memory that it needs
    even on the GPUs with little of it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dynconv.layer.ops import fused_triton

    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments, **named: launches.append((self.kernel, arguments, named))

    for name in ("_convolve", "_correlate"):
        monkeypatch.setattr(fused_triton, name, Recorder(getattr(fused_triton, name)))
    x, weight = torch.randn(4, 64, 16, 16).bfloat16(), torch.randn(8, 64, 64, 3, 3).bfloat16()
    out = fused_triton.forward(nhwc(x), weight, torch.randn(4, 8), 2, 1)
    fused_triton.gradients(out, nhwc(x), weight, torch.randn(4, 8), 2, 1, input_grad=True, bank_grad=True)

    assert len(launches) == 3
    types = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
    for kernel, arguments, named in launches:
        constants = {name: value for name, value in named.items() if name.isupper()}
        options = {name: value for name, value in named.items() if not name.isupper()}
        names = kernel.arg_names[: len(arguments)]
        signature = {
            name: types[value.dtype] if isinstance(value, Tensor) else "i32"
            for name, value in zip(names, arguments, strict=True)
        } | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        assert compiled.asm["cubin"] and "mma" in compiled.asm["ptx"]
        assert compiled.metadata.shared <= 99 * 1024


def on_cuda(**changes: Any) -> Geometry:
    x, weight = torch.empty(32, 64, 16, 16), torch.empty(4, 64, 64, 3, 3)
    return replace(Geometry.of(x, weight, (1, 1), (1, 1), (1, 1), 1), device="cuda", **changes)


def test_groups_are_for_a_cpu_only() -> None:
    assert not fused.applies(on_cuda(groups=2))
    assert "on CUDA groups 1" in choice.obstacle("fused", on_cuda(groups=2))
    assert fused.applies(replace(on_cuda(groups=2), device="cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_does_not_take_on_cuda_what_was_not_timed_there(dtype: torch.dtype) -> None:
    geometry = on_cuda(dtype=dtype)

    assert fused.applies(geometry)
    assert choice.obstacle("fused", geometry) == "not timed on a GPU yet, so only by name: algorithm='fused'"
    assert choice.choose(geometry) != "fused"
    assert choice.UNTIMED in str(choice.explain(geometry))
    assert choice.obstacle("fused", on_cuda(dilation=(2, 2))) == fused.DOMAIN


def test_float16_is_for_cuda_only() -> None:
    assert not fused.applies(replace(on_cuda(dtype=torch.float16), device="cpu"))
    with pytest.raises(ValueError, match="or those or float16 on CUDA"):
        mix_convolutions(
            torch.ones(1, 8, 4, 4).half(), torch.ones(2, 8, 8, 1, 1).half(), torch.ones(1, 2), algorithm="fused"
        )


def test_without_triton_cuda_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "dynconv.layer.ops.fused_triton", raising=False)
    monkeypatch.delattr("dynconv.layer.ops.fused_triton", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert re.search(r"on CUDA: the fused operator is not available on CUDA: .*\(pip install triton\)", fused.status())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    for case in (*EDGES, *some_cases(20, seed=1), Case(8, 4, 128, 200, 28, 28), Case(3, 32, 64, 64, 14, 14, stride=2)):
        compare(case, dtype, "cuda")
    x, weight, a = torch.randn(8, 64, 14, 14), torch.randn(4, 96, 64, 3, 3), torch.randn(8, 4)
    given = [x.to("cuda", dtype), weight.to("cuda", dtype), a.cuda()]
    first, again = (mix_convolutions(*given, padding=1, algorithm="fused") for _ in range(2))
    assert torch.equal(first, again) and first.is_contiguous(memory_format=torch.channels_last)
