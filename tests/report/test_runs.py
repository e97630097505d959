from pathlib import Path

import pytest
from summaries import SUMMARY

from dynconv.artifacts.rundir import RunDir
from dynconv.config import RunConfig
from dynconv.errors import DynconvError
from dynconv.report import runs


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(RunConfig(run=tmp_path / "one", preset="quick", epochs=2), "shapes")
    for epoch in (1, 2):
        figures = {f"{split}_{what}": epoch / 10 for split in ("train", "test") for what in ("loss", "accuracy")}
        run.append({"kind": "epoch", "epoch": epoch, "step": epoch, "data": "shapes", **figures})
    return run


def cells(table: object) -> dict[str, list[str]]:
    columns = [list(column.cells) for column in table.columns]  # type: ignore[attr-defined]
    return {str(row[0]): list(map(str, row[1:])) for row in zip(*columns, strict=True)}


def test_the_table_of_runs_tells_finished_from_cut_off_from_damaged(run: RunDir, tmp_path: Path) -> None:
    done = RunDir.create(RunConfig(run=tmp_path / "done"), "shapes")
    done.write_summary(SUMMARY)
    odd = RunDir.create(RunConfig(run=tmp_path / "[bold]odd"), "shapes")
    odd.write_summary(SUMMARY | {"data": "[red]x[/red]"})
    wrong = RunDir.create(RunConfig(run=tmp_path / "wrong"), "shapes")
    wrong.write_summary(SUMMARY | {"test_accuracy": "high"})
    damaged = RunDir.create(RunConfig(run=tmp_path / "damaged"), "shapes")
    (damaged.path / "summary.json").write_text("{}")

    rows = cells(runs.runs_table(tmp_path))

    assert rows["done"] == ["quick", "shapes", "3", "2/2", "90.00%", "-", "61 s", "finished"]
    assert rows["one"][3] == "2/2" and rows["one"][-1] == "unfinished"
    assert rows["damaged"][-1].startswith("damaged")
    assert "test_accuracy: Input should be a valid number" in rows["wrong"][-1]
    assert rows["[bold]odd"][1] == "[red]x[/red]"  # no markup
    with pytest.raises(DynconvError, match="does not exist"):
        runs.runs_table(tmp_path / "nowhere")
