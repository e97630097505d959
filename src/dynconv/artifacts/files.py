"""Atomic writes: a file is either complete or absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dynconv.errors import DynconvError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it.

    Raises:
        DynconvError: the directory cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DynconvError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
