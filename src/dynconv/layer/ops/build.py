"""The library of a C++ file: one that came with the package, or else compiled, once for all processes.

What is compiled is kept in the user's cache, `dynconv/operators` in $XDG_CACHE_HOME or ~/.cache. A library's name holds
a digest of everything that it depends on: compiler, options, source and processor. Beside it stand a lock, so that
processes that start together compile once, and, where compilation failed, the reason, so that it is not tried again at
every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynconv.layer.ops import processor, targets

logger = logging.getLogger("dynconv.layer")


class UnavailableError(Exception):
    """There is no library; the message says why and what to do, in one line."""


class _CompileError(UnavailableError):
    """The compiler refused the source, as it would every time."""


@dataclass(frozen=True)
class _Recipe:
    """How to compile one C++ file.

    Attributes:
        source: the file.
        command: the compiler and its options.
        seconds: about how long it takes.
    """

    source: Path
    command: tuple[str, ...]
    seconds: int

    @classmethod
    def of(cls, source: Path, seconds: int) -> _Recipe:
        """With the compiler that CXX names, `g++` by default; arguments and quotes as in a shell.

        Raises:
            UnavailableError: there is no such compiler, or DYNCONV_CPU rules it out.
        """
        try:
            flags, limit = processor.compiler_flags(), processor.limit()
        except ValueError as error:
            raise UnavailableError(str(error)) from error
        if limit == "none":
            raise UnavailableError(f"{processor.VARIABLE}=none rules it out (unset it to use the operator)")
        try:
            words = shlex.split(os.environ.get("CXX") or "g++")
        except ValueError as error:
            raise UnavailableError(f"CXX: {os.environ['CXX']!r} is not a command: {error}") from error
        compiler = shutil.which(words[0]) if words else None
        if compiler is None:
            raise UnavailableError("no C++ compiler found (install g++, or name one in CXX)")
        return cls(source, (compiler, *words[1:], *targets.FLAGS, *flags), seconds)

    def name(self) -> str:
        """The library's, without its ending.

        A cache may be shared by several machines, and -march=native compiles for one: hence the processor's flags.
        """
        version = _run([*self.command, "--version"]).stdout
        flags = sorted(processor.instruction_sets())
        key = "\n".join((*self.command, version, platform.machine(), platform.processor(), *flags))
        content = targets.digest(self.source) + key.encode(errors="surrogateescape")
        return f"{self.source.stem}-{hashlib.sha256(content).hexdigest()[:16]}"

    def compile(self, target: Path) -> None:
        """Writes the library under a temporary name beside `target`, then renames it.

        Raises:
            UnavailableError: the compiler failed.
            OSError: the folder cannot be written.
        """
        handle, name = tempfile.mkstemp(".partial", f"{target.stem}.", target.parent)
        os.close(handle)
        partial = Path(name)
        try:
            logger.info("compiling the operator `%s`, once, in about %d s", self.source.stem, self.seconds)
            result = _run([*self.command, str(self.source), "-o", name])
            if result.returncode:
                raise self._failure(result)
            partial.chmod(0o700)  # the linker follows the umask, which may let others write
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _failure(self, result: subprocess.CompletedProcess[str]) -> UnavailableError:
        if result.returncode < 0:  # somebody or the system killed it: so another try may succeed
            return UnavailableError(f"{self.command[0]} was killed by signal {-result.returncode}")
        lines = result.stderr.strip().splitlines() or ["no message"]
        line = next((line for line in lines if "error" in line), lines[0])
        return _CompileError(f"{self.command[0]} could not compile {self.source.name}: {line.strip()}")


@contextlib.contextmanager
def built(source: Path, seconds: int, prebuilt: bool = True) -> Iterator[Path]:
    """The library of a C++ file; load it inside the block. Compiles it unless the package or the cache has it.

    Where CXX names a compiler, the package's own is not taken.
    Where the cache cannot be written, the library is in a temporary folder of this process; a warning says so once.

    Args:
        source: the file; all headers beside it count as included.
        seconds: about how long it takes to compile.
        prebuilt: whether one that came with the package will do.

    Raises:
        UnavailableError: there is no compiler, it failed, or the cached library is not safe to load.
    """
    packaged = _prebuilt(source) if prebuilt else None
    if packaged is not None:
        yield packaged
        return
    recipe = _Recipe.of(source, seconds)
    try:
        name = recipe.name()
    except OSError as error:
        raise UnavailableError(f"cannot run {recipe.command[0]}: {error.strerror}") from error
    problem, cached = "", None
    try:
        cached = _from_cache(recipe, cache_folder() / f"{name}.so")
    except OSError as error:
        problem = f"cannot write the cache {error.filename or ''}: {error.strerror}"
    except RuntimeError:  # as with `docker run --user` and a number that no account has
        problem = "there is no home directory for the cache"
    if cached is not None:
        yield cached
        return
    warn_once(
        "cache", f"{problem}; every process compiles the operators again (name a writable folder in XDG_CACHE_HOME)"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="dynconv-") as folder:
            target = Path(folder) / f"{name}.so"
            recipe.compile(target)
            yield target
    except OSError as error:
        raise UnavailableError(f"{problem}; nor the temporary folder: {error.strerror}") from error


def _prebuilt(source: Path) -> Path | None:
    if os.environ.get("CXX"):
        return None
    try:
        if processor.limit() == "none":
            return None
        return targets.find(source, platform.machine(), processor.instruction_sets())
    except ValueError as error:
        raise UnavailableError(str(error)) from error


def cache_folder() -> Path:
    """Where the libraries are kept.

    Raises:
        RuntimeError: the user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynconv" / "operators"


def _from_cache(recipe: _Recipe, target: Path) -> Path:
    failure = target.with_suffix(".failed")
    if not target.exists() and not failure.exists():
        target.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _refuse_what_others_can_write(target.parent)
        waiting = f"waiting for another process, which is compiling {target.stem}"
        with locked(target.with_suffix(".lock"), waiting):
            if not target.exists() and not failure.exists():  # now that no other process compiles it
                try:
                    recipe.compile(target)
                except _CompileError as reason:
                    partial = failure.with_suffix(".reason")
                    partial.write_text(str(reason), encoding="utf-8", errors="replace")
                    partial.replace(failure)
    _refuse_what_others_can_write(target.parent)
    if not target.exists():
        remembered = failure.read_text(encoding="utf-8", errors="replace")
        raise UnavailableError(f"{remembered} (remove {failure} to try again)")
    _refuse_what_others_can_write(target)
    return target


def _refuse_what_others_can_write(path: Path) -> None:
    """A library runs with all rights of this user, so only root may have written it besides."""
    if not hasattr(os, "geteuid"):
        return
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise UnavailableError(
            f"{path} belongs to another user, so it is not loaded (remove it, or name another folder in XDG_CACHE_HOME)"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnavailableError(f"others can write {path}, so it is not loaded (remove it to compile again)")


@contextlib.contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Holds a lock between processes. Where there is none, several may work at once, each under its own name.

    Args:
        waiting: what to log while another process holds it; empty for nothing.

    Raises:
        OSError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    logger.info("%s", waiting)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file, or the end of the process, releases the lock


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Messages in English: `error` is looked for in them, and the version is part of a library's name."""
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )


_said: set[str] = set()


def warn_once(topic: str, message: str) -> None:
    """Logs a warning, the first of its topic in this process."""
    if topic not in _said:
        _said.add(topic)
        logger.warning("%s", message)
