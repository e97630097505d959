"""How C++ files become cached libraries. A script stands in for the compiler and writes a text instead of a library."""

import errno
import logging
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynconv.layer.ops import build
from dynconv.layer.ops.build import UnavailableError, built

COMPILER = """
import os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
if "--version" in sys.argv:
    print((here / "version").read_text())
    sys.exit()
with (here / "calls").open("a") as calls:
    calls.write(repr(sys.argv[1:]) + "\\n")
if (here / "fails").exists():
    sys.exit("note: this is not the line\\na.cpp:1: error: no such thing\\n")
if (here / "is killed").exists():
    os.kill(os.getpid(), signal.SIGKILL)
with open(sys.argv[sys.argv.index("-o") + 1], "w") as library:
    for part in ("first half, ", "second half"):
        library.write(part)
        library.flush()
        time.sleep(float((here / "seconds").read_text()))
"""
WHOLE = "first half, second half"


class Compiler:
    """A folder with a compiler, a source file and what the compiler was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "small.cpp"
        for name, text in {"compiler.py": COMPILER, "version": "1.0", "seconds": "0", "small.cpp": "int x;"}.items():
            (folder / name).write_text(text)
        self.command = shlex.join([sys.executable, str(folder / "compiler.py")])

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def library(self) -> str:
        """What the library holds."""
        with built(self.source, 1) as path:
            return path.read_text()

    def refusal(self) -> str:
        with pytest.raises(UnavailableError) as caught:
            self.library()
        return str(caught.value)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    folder = tmp_path / "a compiler's"
    folder.mkdir()
    found = Compiler(folder)
    monkeypatch.setenv("CXX", found.command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNCONV_CPU", raising=False)
    monkeypatch.setattr(build, "_said", set())
    return found


# Only the module itself: importing torch eight times would take longer than everything else.
ALONE = """
import pathlib, sys, types
for name, folder in {packages!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from dynconv.layer.ops.build import built
with built(pathlib.Path({source!r}), 1) as path:
    print(path.read_text())
"""


def test_processes_that_start_together_compile_once_and_read_whole_libraries(compiler: Compiler) -> None:
    (compiler.folder / "seconds").write_text("0.5")
    ops = Path(build.__file__).parent
    packages = {"dynconv": ops.parents[1], "dynconv.layer": ops.parent, "dynconv.layer.ops": ops}
    code = ALONE.format(packages={name: str(path) for name, path in packages.items()}, source=str(compiler.source))

    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(8)]

    assert [process.communicate()[0].strip() for process in processes] == [WHOLE] * 8
    assert len(compiler.calls) == 1


def a_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)


def a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="this system has no locks at all")

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("lack", [a_system_without_locks, a_file_system_without_locks])
def test_without_locks_libraries_are_compiled_all_the_same(
    compiler: Compiler, lack: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(monkeypatch)

    assert compiler.library() == compiler.library() == WHOLE and len(compiler.calls) == 1


def change_source(compiler: Compiler) -> None:
    compiler.source.write_text("int y;")


def change_header(compiler: Compiler) -> None:
    (compiler.folder / "header.h").write_text("int y;")


def change_compiler(compiler: Compiler) -> None:
    (compiler.folder / "version").write_text("1.1")


def change_options(compiler: Compiler) -> None:
    os.environ["CXX"] += " -g"  # the fixture puts it back


@pytest.mark.parametrize("change", [change_source, change_header, change_compiler, change_options])
def test_a_library_is_compiled_again_when_what_it_depends_on_changes(
    compiler: Compiler, change: Callable[[Compiler], None]
) -> None:
    assert compiler.library() == compiler.library() == WHOLE and len(compiler.calls) == 1

    change(compiler)

    assert compiler.library() == WHOLE and len(compiler.calls) == 2


@pytest.mark.parametrize("change", [change_source, change_compiler])
def test_a_failure_is_remembered_until_something_changes(
    compiler: Compiler, change: Callable[[Compiler], None]
) -> None:
    (compiler.folder / "fails").touch()
    first = compiler.refusal()

    assert "could not compile small.cpp: a.cpp:1: error: no such thing" in first
    assert compiler.refusal() == first and len(compiler.calls) == 1
    (compiler.folder / "fails").unlink()
    change(compiler)
    assert compiler.library() == WHOLE


def test_a_failure_names_the_file_to_remove_for_another_try(compiler: Compiler) -> None:
    (compiler.folder / "fails").touch()
    reason = compiler.refusal()
    (failure,) = build.cache_folder().glob("*.failed")
    assert reason.endswith(f"(remove {failure} to try again)")
    (compiler.folder / "fails").unlink()
    failure.unlink()

    assert compiler.library() == WHOLE


def test_a_compiler_that_was_killed_is_tried_again(compiler: Compiler) -> None:
    (compiler.folder / "is killed").touch()
    assert "was killed by signal 9" in compiler.refusal()
    (compiler.folder / "is killed").unlink()

    assert compiler.library() == WHOLE


def test_the_compiler_may_have_arguments_and_quotes(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{compiler.command} g++ '-D NAME=two words'")

    assert compiler.library() == WHOLE
    assert compiler.calls[0].startswith("['g++', '-D NAME=two words', '-std=c++17'")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("g++ 'unfinished", 'CXX: "g++ \'unfinished" is not a command: No closing quotation'),
        ("no-such-compiler -O2", "no C++ compiler found (install g++, or name one in CXX)"),
        (" ", "no C++ compiler found (install g++, or name one in CXX)"),
    ],
)
def test_a_useless_value_of_CXX_is_explained(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", command)

    assert compiler.refusal() == reason


def library_file() -> Path:
    (path,) = build.cache_folder().glob("*.so")
    return path


@pytest.mark.parametrize("which", [library_file, build.cache_folder])
@pytest.mark.parametrize("right", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_can_write_is_not_loaded(compiler: Compiler, which: Callable[[], Path], right: int) -> None:
    assert compiler.library() == WHOLE
    path = which()
    path.chmod(stat.S_IMODE(path.stat().st_mode) | right)

    assert compiler.refusal() == f"others can write {path}, so it is not loaded (remove it to compile again)"


@pytest.mark.parametrize("which", [library_file, build.cache_folder])
def test_what_another_user_owns_is_not_loaded(
    compiler: Compiler, which: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiler.library() == WHOLE
    path, me = which(), os.geteuid()
    if me == 0:  # whose own files every user trusts
        os.chown(path, 12345, -1)
    elif which is build.cache_folder:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    else:  # the folder stays this user's, the file does not
        real = build._refuse_what_others_can_write

        def refuse(checked: Path) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(os, "geteuid", lambda: me + 1 if checked == path else me)
                real(checked)

        monkeypatch.setattr(build, "_refuse_what_others_can_write", refuse)

    assert compiler.refusal() == (
        f"{path} belongs to another user, so it is not loaded (remove it, or name another folder in XDG_CACHE_HOME)"
    )


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_with_any_umask_the_library_is_safe_to_load(compiler: Compiler, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert compiler.library() == compiler.library() == WHOLE and len(compiler.calls) == 1
    finally:
        os.umask(before)


def home_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    return "there is no home directory for the cache"


def cache_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    (tmp_path / "cache").write_text("")
    return f"cannot write the cache {tmp_path / 'cache'}"


@pytest.mark.parametrize("trouble", [home_is_missing, cache_is_a_file])
def test_without_a_cache_libraries_are_compiled_into_a_private_folder_and_that_is_said_once(
    compiler: Compiler,
    trouble: Callable[[pytest.MonkeyPatch, Path], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reason = trouble(monkeypatch, tmp_path)
    with built(compiler.source, 1) as path:
        assert path.read_text() == WHOLE
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()
    change_source(compiler)
    assert compiler.library() == WHOLE

    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.name == "dynconv.layer" and reason in record.message and "XDG_CACHE_HOME" in record.message


def test_compiling_is_logged(compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dynconv.layer"):
        compiler.library()
        compiler.library()

    assert [record.message for record in caplog.records] == ["compiling the operator `small`, once, in about 1 s"]
