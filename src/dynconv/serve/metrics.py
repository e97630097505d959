"""The server's metrics, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def share(folder: Path) -> None:
    """From now on, the processes that are forked add up their metrics, through files in `folder`.

    Call it before any `Metrics` is made. The library decides this when it is imported, which is too early for us.
    """
    os.environ[_FOLDER_VARIABLE] = str(folder)
    values.ValueClass = values.MultiProcessValue()


def forget(process: int) -> None:
    """Drops a process that has ended from what counts only while it lives. Its counters remain."""
    mark_process_dead(process)


class Metrics:
    """The metrics of one server.

    Args:
        since: returns when the network was put there, in seconds since 1970.
    """

    def __init__(self, since: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._since = since
        self._answers = Counter(
            "dynconv_answers", "Requests answered", ["path", "status"], registry=self._registry
        )  # the client adds _total
        self._seconds = Histogram(
            "dynconv_answer_seconds",
            "Seconds from the request's header to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._sizes = Histogram("dynconv_batch_images", "Images in a batch", buckets=_SIZES, registry=self._registry)
        self._batches = Histogram(
            "dynconv_batch_seconds", "Seconds the network takes for a batch", buckets=_SECONDS, registry=self._registry
        )
        self._in_progress = Gauge(
            "dynconv_predictions_in_progress", "Predictions accepted but not yet answered",
            registry=self._registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._loaded = Gauge(
            "dynconv_weights_loaded_timestamp_seconds", "When the weights were loaded, in seconds since 1970",
            registry=self._registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._loaded.set(since())
        self._all = self._registry
        if os.environ.get(_FOLDER_VARIABLE):
            self._all = CollectorRegistry()
            MultiProcessCollector(self._all)
        else:
            ProcessCollector(registry=self._registry)  # memory, processor time, open files; on Linux
        self.answered = 0

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """Counts one answer."""
        self.answered += 1
        self._answers.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, images: int, seconds: float) -> None:
        """Counts one batch that the network computed."""
        self._sizes.observe(images)
        self._batches.observe(seconds)

    def show_in_progress(self, predictions: int) -> None:
        """Sets the number of predictions that were accepted but not yet answered."""
        self._in_progress.set(predictions)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, of all processes that share theirs."""
        self._loaded.set(self._since())
        return generate_latest(self._all)
