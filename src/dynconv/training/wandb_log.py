"""A run's metrics in Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and the like work as they always do."""

from __future__ import annotations

import logging
import os

import wandb

from dynconv.artifacts.records import Line, Summary, WarningLine
from dynconv.errors import DynconvError
from dynconv.training.logs import About, scalars

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
"""How long a training waits for the server before it goes on without it."""


def require_account() -> None:
    """Raises DynconvError where metrics are to be sent and no account is known, for which wandb would ask meanwhile."""
    online = wandb.setup().settings.mode in (None, "online", "shared")  # by WANDB_MODE, or by `wandb offline`
    if online and not wandb.login(prompt=False, verify=False):
        raise DynconvError("log: wandb knows no account on this machine; run `wandb login`, or set WANDB_MODE=offline")


class WandbLog:
    """One run of Weights & Biases, which a resumed run goes on with. Its files are in wandb/ of the run directory."""

    def __init__(self, about: About) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dynconv"),
            name=about.name,
            id=about.identity,
            resume="allow",
            config=about.config | {"data": about.data},
            dir=str(about.folder),
            settings=wandb.Settings(console="off", silent=True, init_timeout=CONNECT_SECONDS),
        )
        # A resumed run may write steps again that it has sent already, which wandb's own counter does not allow.
        self._run.define_metric("*", step_metric="step")
        logger.info("wandb: %s", self._run.dir if self._run.offline else self._run.url)

    def record(self, line: Line) -> None:
        """A line of metrics: its numbers over the step, a warning as text."""
        text = {"warning": line.text} if isinstance(line, WarningLine) else {}
        self._run.log({**scalars(line), **text, "step": line.step})

    def close(self, summary: Summary | None) -> None:
        """Sends what is left, and how the run has ended."""
        if summary:
            self._run.summary.update(summary.tree())
        self._run.finish(exit_code=0 if summary and summary.finished else 1)
