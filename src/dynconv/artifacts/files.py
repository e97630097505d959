"""Atomic writes: a file is either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import os
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
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
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
