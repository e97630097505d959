"""What users notice of the compiled operators: that they are there, why they are not, and how much memory they keep."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from operators import OPERATORS, needs_operators

from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops.library import Library

RUNS_TWO_LAYERS = """
import logging, sys, torch
from dynconv.layer import DynamicConv2d
from dynconv.layer.ops import fused, winograd
for kernel in (1, 3):
    for _ in range(2):
        print(DynamicConv2d(8, 8, kernel)(torch.randn(2, 8, 20, 20)).shape)
print(fused.status())
print(winograd.library.status())
"""


def in_fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = ("CXX", "DYNCONV_CPU", "XDG_CACHE_HOME")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert result.returncode == 0, result.stderr
    return result


def failing_compiler(folder: Path) -> str:
    (folder / "compiler.py").write_text("import sys; sys.exit('--version' not in sys.argv and 'error: no')")
    return shlex.join([sys.executable, str(folder / "compiler.py")])


def useless_compiler(folder: Path) -> str:
    (folder / "compiler.py").write_text("import sys; '-o' in sys.argv and open(sys.argv[-1], 'w').write('no library')")
    return shlex.join([sys.executable, str(folder / "compiler.py")])


def no_compiler(folder: Path) -> str:
    return str(folder / "nothing")


TROUBLES = {
    no_compiler: "no C++ compiler found (install g++, or name one in CXX)",
    failing_compiler: "could not compile fused.cpp: error: no",
    useless_compiler: "cannot load ",
}


@pytest.mark.parametrize("compiler", TROUBLES)
def test_without_operators_the_layer_works_and_says_once_why_it_is_slower(
    compiler: Callable[[Path], str], tmp_path: Path
) -> None:
    reason = TROUBLES[compiler]
    ran = in_fresh_process(RUNS_TWO_LAYERS, XDG_CACHE_HOME=str(tmp_path), CXX=compiler(tmp_path))

    *shapes, fused, winograd = ran.stdout.splitlines()
    assert len(shapes) == 4 and fused.startswith("not available: ") and reason in fused
    assert winograd.startswith("not available: ")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("convolutions take slower algorithms: the ") and " operator is not available: " in line


def test_operators_that_the_user_rules_out_cause_no_warning(tmp_path: Path) -> None:
    ran = in_fresh_process(RUNS_TWO_LAYERS, XDG_CACHE_HOME=str(tmp_path), DYNCONV_CPU="none")

    assert (
        ran.stdout.splitlines()[-2:]
        == ["not available: DYNCONV_CPU=none rules it out (unset it to use the operator)"] * 2
    )
    assert ran.stderr == ""


def test_an_unknown_limit_is_said_in_one_line(tmp_path: Path) -> None:
    ran = in_fresh_process(RUNS_TWO_LAYERS, XDG_CACHE_HOME=str(tmp_path), DYNCONV_CPU="sse")

    reason = "DYNCONV_CPU=sse is not known; set it to avx512, avx2 or none, or unset it"
    assert ran.stdout.splitlines()[-2:] == [f"not available: {reason}"] * 2
    (line,) = ran.stderr.splitlines()
    assert line.endswith(f" operator is not available: {reason}")


def test_a_library_that_is_not_there_refuses_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNCONV_CPU", raising=False)
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    library = Library(tmp_path / "small.cpp", {}, seconds=1)

    assert not library.available() and library.workspace_bytes() == 0
    library.release_workspace()
    with pytest.raises(RuntimeError, match=r"the small operator is not available: no C\+\+ compiler found"):
        library.call("anything", ())


@pytest.mark.parametrize("name", OPERATORS)
def test_memory_kept_for_the_next_call_does_not_grow_with_the_threads(name: str) -> None:
    needs_operators(name)
    library = OPERATORS[name].library
    groups = 64 if name == "depthwise" else 1
    x, weight, a = torch.randn(4, 64, 16, 16), torch.randn(4, 64, 64 // groups, 3, 3), torch.rand(4, 4)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, a)]

    def work(_: int = 0) -> list[torch.Tensor]:
        out = mix_convolutions(*inputs, padding=1, groups=groups, algorithm=name)
        return [out, *torch.autograd.grad(out.sum(), inputs)]

    library.release_workspace()
    assert library.workspace_bytes() == 0
    expected = work()
    one = library.workspace_bytes()
    assert one > 0
    for _ in range(4):
        with ThreadPoolExecutor(1) as thread:  # a new one each time
            thread.submit(work).result()
    assert library.workspace_bytes() == one
    with ThreadPoolExecutor(8) as threads:
        for results in threads.map(work, range(40)):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))
    assert one <= library.workspace_bytes() <= 2 * one
    library.release_workspace()
    assert library.workspace_bytes() == 0


@pytest.mark.parametrize("name", OPERATORS)
def test_they_run_on_as_many_threads_as_torch(name: str) -> None:
    """Because they share torch's OpenMP: with a copy of their own, torch.set_num_threads would not reach them."""
    needs_operators(name)
    opened = OPERATORS[name].library._library()
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert opened.omp_get_max_threads() == threads  # the one that the library was linked to
    finally:
        torch.set_num_threads(before)


def test_they_are_deterministic_algorithms_to_torch() -> None:
    """They always are, for one number of threads; where torch refuses others, it must not refuse these."""
    needs_operators()
    torch.manual_seed(0)
    inputs = [torch.randn(6, 16, 9, 9), torch.randn(3, 16, 16, 3, 3), torch.rand(6, 3)]

    def bits(name: str) -> list[torch.Tensor]:
        x, weight, a = (tensor.clone().requires_grad_() for tensor in inputs)
        groups = 16 if name == "depthwise" else 1
        bank = weight[:, :, : 16 // groups]
        out = mix_convolutions(x, bank, a, padding=1, groups=groups, algorithm=name)
        return [out, *torch.autograd.grad(out.square().sum(), (x, weight, a))]

    torch.use_deterministic_algorithms(True)
    try:
        for name in OPERATORS:
            for first, again in zip(bits(name), bits(name), strict=True):
                assert torch.equal(first, again)
    finally:
        torch.use_deterministic_algorithms(False)
