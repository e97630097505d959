"""A run's metrics in MLflow, in the store that MLFLOW_TRACKING_URI names, by default MLflow's own: mlflow.db here.

MLflow no longer writes into plain folders (`mlruns`) unless MLFLOW_ALLOW_FILE_STORE=true is set.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from dynconv.artifacts.records import Line, StepLine, Summary, WarningLine
from dynconv.training.logs import About, scalars
from dynconv.validation import shown

EVERY = 10
"""Of the steps, every tenth is recorded: a store takes about a millisecond for each number."""
MOST_PARAMETERS, LONGEST_VALUE = 100, 500
"""How many parameters MLflow takes at once, and the characters of a value that all of its stores take."""

_TAG = "dynconv.identity"


class MlflowLog:
    """One run of MLflow, which a resumed run goes on with."""

    def __init__(self, about: About) -> None:
        # A server that does not answer would hold training up for minutes before it counts as failed.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        for name in ("alembic", "mlflow.store.db.utils"):  # a hundred lines about the tables of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "dynconv"))
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{about.identity}'", max_results=1)
        tags = {_TAG: about.identity, "data": about.data}
        run = found[0] if found else self._client.create_run(experiment, run_name=about.name, tags=tags)
        self._id: str = run.info.run_id
        if found:
            self._client.update_run(self._id, status="RUNNING")
        config = [Param(name, shown(value)[:LONGEST_VALUE]) for name, value in about.config.items()]
        for first in range(0, len(config), MOST_PARAMETERS):  # of a resumed run they are the same, which is no error
            self._client.log_batch(self._id, params=config[first : first + MOST_PARAMETERS])

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        identity: str = known.experiment_id if known else self._client.create_experiment(name)
        return identity

    def record(self, line: Line) -> None:
        """A line of metrics: its numbers by step, of steps those of every tenth; a warning as a tag."""
        if isinstance(line, WarningLine):
            self._client.set_tag(self._id, "warning", line.text)
        elif not isinstance(line, StepLine) or line.step % EVERY == 0:
            self._send(scalars(line), line.step)

    def _send(self, figures: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def close(self, summary: Summary | None) -> None:
        """The summary's figures as metrics, the rest of it as tags, and how the run has ended."""
        fields: dict[str, Any] = summary.tree() if summary else {}
        for name, value in fields.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, f"summary.{name}", value[:LONGEST_VALUE])
        numbers = {name: float(value) for name, value in fields.items() if isinstance(value, int | float)}
        self._send({f"summary/{name}": value for name, value in numbers.items()}, fields.get("epochs", 0))
        self._client.set_terminated(self._id, "FINISHED" if summary and summary.finished else "KILLED")
