"""The server's metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server; `in_progress` returns the number of predictions in progress."""

    def __init__(self, in_progress: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
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
        gauge = Gauge(
            "dynconv_predictions_in_progress", "Predictions accepted but not yet answered", registry=self._registry
        )
        gauge.set_function(in_progress)
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

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
