"""The state of training, `state.pt` of a run: all that is needed to go on training. Nothing of it is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dynconv.artifacts.files import write_atomically
from dynconv.errors import DynconvError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the full state of training: tensors, numbers, strings, and lists and dicts of them."""

    def write(file: Path) -> None:
        with file.open("wb") as stream:  # given a path, torch reports a full disk as a RuntimeError
            torch.save(state, stream)

    write_atomically(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """Reads what `save_state` wrote.

    Raises:
        DynconvError: the file is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise DynconvError(f"{path}: missing or damaged ({type(error).__name__}); start the run anew") from error
    return state
