import json
from pathlib import Path

import pytest
from rich.table import Table
from summaries import SUMMARY
from tiny import CONFIG, create

from dynconv.artifacts.records import EpochLine
from dynconv.errors import DynconvError
from dynconv.report import runs


def cells(table: Table) -> dict[str, dict[str, str]]:
    names = [str(column.header) for column in table.columns]
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    return {str(row[0]): dict(zip(names, map(str, row), strict=True)) for row in rows}


def test_the_table_of_runs_tells_finished_from_cut_off_from_damaged(tmp_path: Path) -> None:
    one = create(tmp_path / "one")
    for epoch in (1, 2):
        one.append(EpochLine(
            epoch=epoch, step=epoch, data="shapes", train_loss=1.0, train_accuracy=0.5, test_loss=1.0,
            test_accuracy=0.5, lr={}, image_size=16, seconds=1.0, routing=[],
        ))  # fmt: skip
    done = create(tmp_path / "done")
    done.write_summary(SUMMARY)
    odd = create(tmp_path / "[bold]odd")
    odd.write_summary(SUMMARY.model_copy(update={"data": "[red]x[/red]"}))
    wrong = create(tmp_path / "wrong")
    (wrong.path / "summary.json").write_text(json.dumps({**SUMMARY.tree(), "test_accuracy": "high"}))
    (create(tmp_path / "damaged").path / "summary.json").write_text("{}")
    (create(tmp_path / "broken").path / "config.yaml").write_text("{")

    rows = cells(runs.runs_table(tmp_path))

    assert list(rows["done"].values()) == [
        "done", "quick", "shapes", "3", "2/2", "90.00%", "-", "61 s", "", "finished",
    ]  # fmt: skip
    assert rows["one"]["epochs"] == "2/2" and rows["one"]["state"] == "unfinished"
    assert rows["damaged"]["state"].startswith("damaged") and rows["broken"]["state"].startswith("damaged")
    assert "test_accuracy: Input should be a valid number" in rows["wrong"]["state"]
    assert rows["[bold]odd"]["data"] == "[red]x[/red]"  # no markup
    with pytest.raises(DynconvError, match="does not exist"):
        runs.runs_table(tmp_path / "nowhere")


def test_runs_of_one_preset_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    create(tmp_path / "a")
    create(tmp_path / "b", CONFIG.model_copy(update={"epochs": 7, "seed": 3}))
    create(tmp_path / "c", CONFIG.model_copy(update={"preset": "other", "epochs": 9}))

    rows = cells(runs.runs_table(tmp_path))

    assert [rows[name]["differs"] for name in "abc"] == ["epochs 2", "epochs 7", ""]
