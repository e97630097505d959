"""Where the metrics of a run go besides its own directory: TensorBoard, Weights & Biases, MLflow.

A log is told the run's configuration when it is opened, each line of metrics, and the summary. To add one, write a
class with the methods of `Log` and a line in `LOGS`. What is in the run directory never depends on a log: where one
fails, it is left out from then on, and training goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from dynconv.artifacts.records import EpochLine, Line, StepLine, Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError
from dynconv.validation import flat

LogName = Literal["wandb", "mlflow"]
"""The logs that can be asked for; TensorBoard's event files are always written."""

_NOT_SCALARS = {"kind", "data", "step", "lr", "routing", "text"}
"""Fields of a line that have curves of their own, or none."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class About:
    """What a log is told of a run when it is opened.

    Attributes:
        name: name of the run's directory; its path stays on this machine.
        identity: the same for a run that is resumed, and for no other.
        config: every hyper-parameter by its dotted name.
        folder: the run's directory, for files of the log.
    """

    name: str
    identity: str
    data: str
    config: dict[str, Any]
    folder: Path


class Log(Protocol):
    """Takes what is known of a run as it is trained, in the leading process. Its methods may raise anything."""

    def record(self, line: Line) -> None:
        """A line of metrics; `scalars` has its numbers."""

    def close(self, summary: Summary | None) -> None:
        """The run's end: its summary, or None where it has none, as after an error or a scheduler's notice."""


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line by name: step/loss, epoch/test_accuracy, lr/experts, routing/block1/entropy, ..."""
    found = {
        f"{line.kind}/{name}": float(value)
        for name, value in line
        if name not in _NOT_SCALARS and isinstance(value, int | float)
    }
    if isinstance(line, StepLine):
        found |= {f"lr/{name}": rate for name, rate in line.lr.items()}
    if isinstance(line, EpochLine):
        for block in line.routing:
            found |= {f"routing/block{block.block}/{name}": getattr(block, name) for name in ("entropy", "std")}
    return found


def _tensorboard(about: About) -> Log:
    from dynconv.training.events import EventLog

    return EventLog(about.folder / "tensorboard")


def _wandb(about: About) -> Log:
    from dynconv.training.wandb_log import WandbLog

    return WandbLog(about)


def _mlflow(about: About) -> Log:
    from dynconv.training.mlflow_log import MlflowLog

    return MlflowLog(about)


LOGS: dict[str, Callable[[About], Log]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
"""Name -> what opens the log. Each imports its package at first use."""


def require_logs(names: Sequence[LogName]) -> None:
    """Raises DynconvError where a log cannot be used: before a run begins, this is the user's mistake."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DynconvError(f"log: {name} is not installed; pip install 'dynconv[{name}]'") from error
    if "wandb" in names:
        from dynconv.training.wandb_log import require_account

        require_account()


class Logs:
    """All logs of a run. One that fails is said and left out; none of its errors reaches the trainer."""

    def __init__(self, run: RunDir, names: Sequence[LogName]) -> None:
        config = flat(run.config.tree())
        if config.get("init"):
            config["init"] = Path(str(config["init"])).name  # a path, which stays on this machine
        about = About(run.path.resolve().name, _identity(run), run.environment.data, config, run.path)
        self._open: dict[str, Log] = {}
        for name in ("tensorboard", *names):
            with self._spared(name):
                self._open[name] = LOGS[name](about)

    def record(self, line: Line) -> None:
        """Passes a line of metrics on."""
        for name, log in list(self._open.items()):
            with self._spared(name):
                log.record(line)

    def close(self, summary: Summary | None) -> None:
        """Ends them all."""
        for name, log in list(self._open.items()):
            with self._spared(name):
                log.close(summary)
        self._open.clear()

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        try:
            yield
        except DynconvError:  # a notice of the system, which comes whatever is being done
            raise
        except Exception as error:
            self._open.pop(name, None)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            logger.warning("%s: %s; training goes on without this log", name, reason)


def _identity(run: RunDir) -> str:
    """Sixteen hexadecimal digits: what a run began as, which is written once."""
    began = repr((run.path.resolve().name, run.environment.tree(), run.config.tree()))
    return hashlib.sha256(began.encode()).hexdigest()[:16]
