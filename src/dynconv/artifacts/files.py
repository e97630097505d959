"""Atomic writes: a file or a folder is either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dynconv.errors import DynconvError


def write_atomically(path: Path, write: Callable[[Path], object], *, before: Path | None = None) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it; it outlasts a power cut once this returns.

    Args:
        before: the file that `path` was until now gets this name.

    Raises:
        DynconvError: the directory cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        sync(temporary)
        if before is not None and path.exists():
            path.replace(before)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise DynconvError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # what is wrong has been said; on a read-only disk this fails too
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Has what was written to a file outlast a power cut. Raises OSError where it cannot."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_atomically` does, in UTF-8."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a new folder beside `path`, then puts it in the place of the one that is there, if any.

    Raises:
        DynconvError: it cannot be written, or the disk is full; then an earlier folder is as it was.
    """
    whole = path.absolute()  # "." has no name
    temporary, before = (whole.with_name(f".{whole.name}.{os.getpid()}.{kind}") for kind in ("partial", "before"))
    try:
        temporary.mkdir()
        write(temporary)
        if whole.exists():
            whole.rename(before)
        try:
            temporary.rename(whole)
        except OSError:
            if before.exists():
                before.rename(whole)
            raise
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise DynconvError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Has the new names in a folder written to the disk, where the system has a call for that."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:  # not readable, or a file system that cannot
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
