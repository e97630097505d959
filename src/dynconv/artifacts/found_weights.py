"""Which file holds the weights that a path or a name stands for: a run's, any, or one that comes with the package."""

from __future__ import annotations

import stat
from pathlib import Path

from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError

PACKAGED = ("accurate", "standard")
"""Names of the weights that come with the package."""

DEFAULT = "accurate"
"""Those that are used where none are named."""


def packaged_weights(name: str) -> Path:
    """The weights file called `name` that comes with the package."""
    return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"


def is_packaged(run_or_weights: str | Path) -> bool:
    """Whether this names weights that come with the package, and no path of the user's."""
    return str(run_or_weights) in PACKAGED and not Path(run_or_weights).exists()


def find_weights(run_or_weights: str | Path) -> tuple[Path, RunDir | None]:
    """The weights file, and the run that it belongs to.

    Raises:
        DynconvError: nothing is there, a run without weights, or a path that cannot be read.
    """
    path = packaged_weights(str(run_or_weights)) if is_packaged(run_or_weights) else Path(run_or_weights)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        names = " or ".join(PACKAGED)
        raise DynconvError(f"{path}: does not exist; name a run directory, a weights file, or {names}") from None
    except OSError as error:  # no permission, or a name that is too long
        raise DynconvError(f"{path}: cannot be read ({error.strerror})") from error
    if not is_folder:
        return path, None
    run = RunDir.open(path)
    if not run.weights.exists():
        raise DynconvError(f"{path}: the run has no weights yet; they are written when it ends")
    return run.weights, run
