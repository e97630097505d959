"""The training state, `state.pt` of a run: all that is needed to continue training. It is read without unpickling.

The state before the last one is kept beside it, in case the last one is damaged.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv.artifacts import format_1, torch_file
from dynconv.artifacts.files import write_atomically
from dynconv.data.bounded_pickle import RefusedError
from dynconv.errors import DynconvError

FORMAT = 2

_START_AGAIN = "; start the run again"

logger = logging.getLogger(__name__)


class DamagedStateError(DynconvError):
    """A state that is missing or damaged, so the one before it may help."""


def state_before(path: Path) -> Path:
    """Where the state before the one in `path` is kept."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def is_saved(path: Path) -> bool:
    """Whether there is a state in `path`, or one before it, as after a crash between two renames."""
    return path.exists() or state_before(path).exists()


def remove_state(path: Path) -> None:
    """Removes the state in `path` and the one before it."""
    for file in (path, state_before(path)):
        file.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the full training state: tensors, numbers, strings, and lists and dicts of them. Keeps the one before."""

    def write(file: Path) -> None:
        with file.open("wb") as stream:  # given a path, torch reports a full disk as a RuntimeError
            try:
                torch.save({"format": FORMAT, **state}, stream)
            except RuntimeError as error:  # of closing a file to which it could not write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    write_atomically(path, write, before=state_before(path))


def load_last_state(path: Path) -> dict[str, Any]:
    """Reads a training state, or the one before it if it is damaged, and says so.

    Raises:
        DynconvError: as `load_state`, if there is none before it or that is damaged as well.
    """
    try:
        return load_state(path)
    except DamagedStateError as error:
        before = state_before(path)
        if not before.exists():
            raise
        try:
            state = load_state(before)
        except DamagedStateError:
            raise error from None
        logger.warning("%s; going on from the state before, %s", str(error).removesuffix(_START_AGAIN), before.name)
        return state


def load_state(path: Path) -> dict[str, Any]:
    """Reads a training state of format 1 or 2.

    Raises:
        DamagedStateError: the file is missing or damaged.
        DynconvError: it cannot be read, or it is of a newer format.
    """
    damaged = f"{path}: damaged, or not a training state"
    try:
        state = torch_file.read(path)
    except FileNotFoundError as error:
        raise DamagedStateError(f"{path}: missing, so the run cannot be resumed{_START_AGAIN}") from error
    except OSError as error:
        raise DynconvError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RefusedError as error:
        raise DynconvError(f"{damaged}: {error}; refused as unsafe") from error
    except Exception as error:  # a damaged file can fail in any way
        raise DamagedStateError(f"{damaged} ({type(error).__name__}){_START_AGAIN}") from error
    format_ = state.get("format", 1) if isinstance(state, dict) else None
    if type(format_) is not int or format_ < 1:  # a tensor, for one, cannot be compared
        raise DamagedStateError(f"{damaged}{_START_AGAIN}")
    if format_ > FORMAT:
        raise DynconvError(
            f"{path}: has format {min(format_, 10**9)}, newer than this dynconv can read; upgrade dynconv"
        )
    if not _is_state(state):
        raise DamagedStateError(f"{damaged}{_START_AGAIN}")
    for name in ("net", "average"):
        if state.get(name):
            state[name] = format_1.tensors(state[name]) if format_ == 1 else dict(state[name])
    found: dict[str, Any] = state
    return found


def _is_state(state: dict[str, Any]) -> bool:
    """Whether all that training continues from is there, of the right types; not whether it fits a run."""
    counts = type(state.get("epochs")) is int and type(state.get("seconds")) is float
    if not counts or state["epochs"] < 0 or not 0 <= state["seconds"] < math.inf:
        return False
    restarts, sums = state.get("restarts", 0), state.get("within_epoch", {})
    if type(restarts) is not int or not 0 <= restarts < 1000:
        return False
    if not isinstance(sums, dict) or not all(_is_sum(value) for value in sums.values()):
        return False
    if not _is_best(state.get("best", {})):
        return False
    optimizers = state.get("optimizers")
    return (
        _are_tensors(state.get("net"))
        and (state.get("average") is None or _are_tensors(state["average"]))
        and isinstance(optimizers, list)
        and all(isinstance(each, dict) and isinstance(each.get("state"), dict) for each in optimizers)
    )


def _is_best(best: object) -> bool:
    """Whether this is what is kept of the epoch that was best on the hold-out; empty where nothing is."""
    if not isinstance(best, dict):
        return False
    epoch, accuracy, weights = best.get("epoch", 0), best.get("accuracy", 0.0), best.get("weights")
    numbers = type(epoch) is int and 0 <= epoch <= 2**53 and type(accuracy) is float and 0 <= accuracy <= 1
    return numbers and (weights is None or (_are_tensors(weights) and epoch > 0))


def _is_sum(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _are_tensors(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
