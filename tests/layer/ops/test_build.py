"""How the C++ operators are built, cached and done without."""

import subprocess
import sys
from pathlib import Path

from operators import needs_operators


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


STATUS = "from dynconv.layer.ops import fused; print(fused.status())"


def test_is_built_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    needs_operators()
    assert in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path)) == "available\n"
    (built,) = (tmp_path / "dynconv").iterdir()
    written = built.stat().st_mtime_ns

    assert in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path)) == "available\n"
    assert built.stat().st_mtime_ns == written


def test_without_a_compiler_the_layer_works_and_the_reason_is_told(tmp_path: Path) -> None:
    code = (
        "import torch; from dynconv.layer import DynamicConv2d; from dynconv.layer.ops import fused, winograd;"
        "print(DynamicConv2d(8, 8, 3, padding=1)(torch.randn(2, 8, 12, 12)).shape, fused.status(), winograd.status())"
    )
    for compiler, reason in (("no-such-compiler", "no C++ compiler found"), ("false", "could not compile it")):
        said = in_fresh_process(code, XDG_CACHE_HOME=str(tmp_path / compiler), CXX=compiler)
        assert "[2, 8, 12, 12]" in said and "not available: " in said and reason in said


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "cannot write the cache" in in_fresh_process(STATUS, XDG_CACHE_HOME=str(tmp_path / "file"))


def test_without_a_home_directory_the_reason_is_told() -> None:
    """As with `docker run --user` and a number that no account has."""
    code = f"""
import pathlib
def no_home():
    raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = no_home
{STATUS}"""
    assert "no home directory" in in_fresh_process(code)
