"""The operator's building, caching and registration; its values are tested in test_mixing.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynconv.nn import winograd
from dynconv.nn.mixing import mix_convolutions


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 8, 12, 12, requires_grad=True),
        torch.randn(2, 16, 8, 3, 3, requires_grad=True),
        torch.rand(3, 2, requires_grad=True),
    )


@pytest.mark.parametrize("tile", [2, 7])
def test_is_registered_as_torch_wants_it(tile: int) -> None:
    torch.library.opcheck(
        winograd.winograd,
        (*inputs(), 1, tile),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize(("tile", "most"), [(2, 5e-7), (3, 1.5e-6), (4, 2e-6), (5, 5e-6), (6, 6e-6), (7, 2e-5)])
def test_rounding_errors(tile: int, most: float) -> None:
    """Root mean square, relative to the output's standard deviation, as the documentation states them."""
    torch.manual_seed(0)
    x, weight, a = torch.randn(20, 64, 14, 14), torch.randn(1, 64, 64, 3, 3), torch.ones(20, 1)
    exact = torch.nn.functional.conv2d(x.double(), weight[0].double(), padding=1)

    error = winograd.winograd(x, weight, a, 1, tile) - exact

    assert error.square().mean().sqrt() <= most * exact.std()


def test_same_bits_every_time() -> None:
    x, weight, a = inputs()

    def run() -> list[torch.Tensor]:
        out = mix_convolutions(x, weight, a, padding=1, algorithm="winograd")
        return [out, *torch.autograd.grad(out.square().sum(), (x, weight, a))]

    for first, again in zip(run(), run(), strict=True):
        assert torch.equal(first, again)


def in_fresh_process(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


STATUS = "from dynconv.nn import winograd; print(winograd.status())"


def test_is_built_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    assert in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path)) == "available\n"
    (built,) = (tmp_path / "dynconv").iterdir()
    written = built.stat().st_mtime_ns

    assert in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path)) == "available\n"
    assert built.stat().st_mtime_ns == written


def test_without_a_compiler_the_layer_works_and_the_reason_is_told(tmp_path: Path) -> None:
    code = (
        "import torch; from dynconv.nn import DynamicConv2d, winograd;"
        "print(DynamicConv2d(8, 8, 3, padding=1)(torch.randn(2, 8, 12, 12)).shape, winograd.status())"
    )
    for compiler, reason in (("no-such-compiler", "no C++ compiler found"), ("false", "could not compile it")):
        said = in_fresh_process(code, XDG_CACHE_HOME=str(tmp_path / compiler), CXX=compiler)
        assert "[2, 8, 12, 12]" in said and "not available: " in said and reason in said


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "cannot write the cache" in in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path / "file"))
