"""Operators that were compiled beforehand: which one is taken, and when none is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynconv.layer.ops import build, processor, targets

V3 = targets.X86_64_V3
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
SOURCE = Path(build.__file__).with_name("pixel_sum.cpp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file for every target, which is no library."""
    for of_machine in targets.TARGETS.values():
        for target in of_machine:
            (tmp_path / targets.file_name(SOURCE, target)).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        ("x86_64", V4 | {"avx512_bf16", "amx_tile", "amx_bf16", "sse2"}, "amx"),
        ("x86_64", V4 | {"avx512_bf16", "amx_tile"}, "avx512bf16"),
        ("x86_64", V4, "v4"),
        ("x86_64", V4 - {"avx512vl"}, "v3"),
        ("x86_64", V3, "v3"),
        ("x86_64", V3 - {"fma"}, None),
        ("aarch64", {"asimd"}, "neon"),
        ("riscv64", set(), None),
    ],
)
def test_the_best_for_the_processor_is_taken(folder: Path, machine: str, flags: set[str], name: str | None) -> None:
    found = targets.find(SOURCE, machine, flags, folder)

    assert (found and found.name.split("-")[1]) == name


def test_a_library_of_other_sources_is_not_taken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    changed = tmp_path_factory.mktemp("changed") / SOURCE.name
    changed.write_text(SOURCE.read_text() + "\n// changed\n")
    for header in SOURCE.parent.glob("*.h"):
        shutil.copy(header, changed.parent)

    assert targets.find(SOURCE, "x86_64", V3, folder)
    assert not targets.find(changed, "x86_64", V3, folder)


def test_the_package_holds_none_in_a_checkout() -> None:
    assert not targets.PREBUILT.exists()


def best_here() -> targets.Target | None:
    machine, flags = os.uname().machine, processor.instruction_sets()
    return next((one for one in targets.TARGETS.get(machine, ()) if one.needs <= flags), None)


USES_IT = """
import sys
from pathlib import Path
from dynconv.layer.ops import pixel_sum, targets
targets.find.__defaults__ = (Path(sys.argv[1]),)
print(pixel_sum.library.status())
"""


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "available"),
        ({"CXX": "no-such-compiler"}, "not available: no C++ compiler found"),
        ({"DYNCONV_CPU": "none"}, "not available: DYNCONV_CPU=none rules it out"),
    ],
    ids=["without a compiler", "with a compiler of one's own", "ruled out"],
)
def test_it_is_loaded_where_there_is_no_compiler(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    target, compiler = best_here(), shutil.which("g++")
    if not target or not compiler:
        pytest.skip("needs g++ and a processor with a target; not tested: loading what was compiled beforehand")
    library = tmp_path / targets.file_name(SOURCE, target)
    subprocess.run([compiler, *targets.FLAGS, *target.flags, SOURCE, "-o", library], check=True)
    alone = {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    found = subprocess.run(
        [sys.executable, "-c", USES_IT, tmp_path], env=alone | environment, capture_output=True, text=True, check=True
    )

    assert found.stdout.startswith(said)
    assert not (tmp_path / "cache").exists()
