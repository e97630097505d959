"""A run's epochs as CSV."""

import csv
import json
from pathlib import Path

from dynconv.report import history


def test_every_epoch_is_a_row_of_plain_columns(trained: Path) -> None:
    with (trained / "report" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    for row, line in zip(rows, epochs, strict=True):
        assert float(row["test_accuracy"]) == line["test_accuracy"] and int(row["step"]) == line["step"]
        assert float(row["lr.experts"]) == line["lr"]["experts"] and row["validation_accuracy"] == ""
        block = line["routing"][1]
        assert float(row["routing.block2.entropy"]) == block["entropy"]
        assert [float(row[f"routing.block2.mean{expert}"]) for expert in (1, 2)] == block["mean"]


def test_without_epochs_there_is_a_header() -> None:
    assert history.as_csv([]).startswith("epoch,step,data,train_loss,") and history.as_csv([]).count("\n") == 1
