"""The training state, `state.pt` of a run: all that is needed to continue training. It is read without unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dynconv.artifacts import format_1
from dynconv.artifacts.files import write_atomically
from dynconv.errors import DynconvError

FORMAT = 2


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the full training state: tensors, numbers, strings, and lists and dicts of them."""

    def write(file: Path) -> None:
        with file.open("wb") as stream:  # given a path, torch reports a full disk as a RuntimeError
            torch.save({"format": FORMAT, **state}, stream)

    write_atomically(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """Reads a training state of format 1 or 2.

    Raises:
        DynconvError: the file is missing, damaged, or of a newer format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        format_ = int(state.get("format", 1))
    except Exception as error:  # a damaged file can fail in any way
        raise DynconvError(f"{path}: missing or damaged ({type(error).__name__}); start the run again") from error
    if format_ > FORMAT:
        raise DynconvError(f"{path}: has format {format_}, newer than this dynconv can read; upgrade dynconv")
    if format_ == 1:
        for name in ("net", "average"):
            if state.get(name):
                state[name] = format_1.tensors(state[name])
    found: dict[str, Any] = state
    return found
