"""TensorBoard event files of a run's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_NOT_SCALARS = {"kind", "data", "step", "lr", "routing"}


class EventLog:
    """Writes metrics records as scalars, by step."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer = SummaryWriter(str(folder))

    def record(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl: step/loss, epoch/test_accuracy, lr/experts, routing/block1/entropy, ..."""
        if record["kind"] == "warning":
            self._writer.add_text("warning", record["text"], record["step"])
            return
        for name, value in record.items():
            if name not in _NOT_SCALARS:
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        if record["kind"] == "step":
            for name, rate in record["lr"].items():
                self._writer.add_scalar(f"lr/{name}", rate, record["step"])
        for block in record.get("routing", ()):
            for name in ("entropy", "std"):
                self._writer.add_scalar(f"routing/block{block['block']}/{name}", block[name], record["step"])

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()
