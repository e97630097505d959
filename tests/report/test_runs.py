import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.table import Table
from summaries import SUMMARY
from tiny import CONFIG, create

from dynconv.artifacts.records import EpochLine
from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.report import runs
from dynconv.validation import flat

PRESETS = {"quick": flat(CONFIG.model_dump(mode="json"))}


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

    rows = cells(runs.as_table(runs.read_runs(tmp_path, PRESETS)))

    assert list(rows["done"].values()) == [
        "done", "quick", "shapes", "3", "2/2", "90.00%", "-", "61 s", "", "finished",
    ]  # fmt: skip
    assert rows["one"]["epochs"] == "2/2" and rows["one"]["state"] == "unfinished"
    assert rows["damaged"]["state"].startswith("damaged") and rows["broken"]["state"].startswith("damaged")
    assert "test_accuracy: Input should be a valid number" in rows["wrong"]["state"]
    assert rows["[bold]odd"]["data"] == "[red]x[/red]"  # no markup
    with pytest.raises(DynconvError, match="does not exist"):
        runs.read_runs(tmp_path / "nowhere", {})


def test_a_run_shows_what_is_not_as_in_its_preset(tmp_path: Path) -> None:
    create(tmp_path / "a")
    create(tmp_path / "b", CONFIG.model_copy(update={"epochs": 7, "seed": 3, "patience": 2}))
    create(tmp_path / "c", CONFIG.model_copy(update={"preset": "of another version", "epochs": 9}))

    rows = cells(runs.as_table(runs.read_runs(tmp_path, PRESETS)))

    assert [rows[name]["differs"] for name in "abc"] == ["", "epochs 7; patience 2", ""]


def test_fields_that_a_run_of_an_earlier_version_lacks_are_as_in_the_preset(tmp_path: Path) -> None:
    file = create(tmp_path / "old").path / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    del tree["patience"]
    file.write_text(yaml.safe_dump(tree))

    (row,) = runs.read_runs(tmp_path, PRESETS)
    assert row.differs == {} and row.get("patience") is None


@pytest.fixture
def several(tmp_path: Path) -> list[runs.Row]:
    """Four that have ended, with accuracies and learning rates of their own, one that goes on, and one damaged."""
    for number, (accuracy, rate) in enumerate([(0.5, 0.1), (0.9, 1e-3), (0.7, 0.02), (0.8, 0.1)]):
        config = CONFIG.model_copy(update={"optim": CONFIG.optim.model_copy(update={"lr": rate})})
        data = "shapes" if number else "cifar10"
        summary = SUMMARY.model_copy(update={"test_accuracy": accuracy, "data": data})
        create(tmp_path / f"run{number}", config).write_summary(summary)
    create(tmp_path / "going-on")
    create(tmp_path / "damaged").path.joinpath("config.yaml").write_text("{")
    return runs.read_runs(tmp_path, PRESETS)


def names(rows: list[runs.Row]) -> list[str]:
    return [row.path.name for row in rows]


def test_sorted_and_filtered(several: list[runs.Row]) -> None:
    assert names(several) == ["damaged", "going-on", "run0", "run1", "run2", "run3"]
    assert names(runs.chosen(several, sort="accuracy")) == ["run1", "run3", "run2", "run0", "damaged", "going-on"]
    assert names(runs.chosen(several, sort="optim.lr"))[:3] == ["run1", "run2", "run0"]
    assert names(runs.chosen(several, ["optim.lr=0.1"])) == ["run0", "run3"]
    assert names(runs.chosen(several, ["optim.lr=0.1", "data=shapes"])) == ["run3"]
    assert names(runs.chosen(several, ["state=unfinished"])) == ["going-on"]
    assert names(runs.chosen(several, ["model.widths=8, 8"], sort="run"))[0] == "going-on"


@pytest.mark.parametrize(
    ("filters", "sort", "said"),
    [
        ([], "acuracy", "sort: no field acuracy; did you mean accuracy?"),
        (["lr=3"], None, "filter: no field lr; did you mean optim.lr?"),
        (["fast"], None, "filter: must be FIELD=VALUE, as in data=cifar10, not fast"),
    ],
)
def test_wrong_fields_are_one_line(several: list[runs.Row], filters: list[str], sort: str | None, said: str) -> None:
    with pytest.raises(DynconvError) as caught:
        runs.chosen(several, filters, sort)
    assert str(caught.value) == said


def test_a_filter_that_no_run_matches_says_which_values_there_are(
    several: list[runs.Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(several) == 6 and main(["runs", str(tmp_path), "--filter", "state=done"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err == ("warning: no run matches state=done; state is one of: damaged, finished, unfinished\n")

    (tmp_path / "none").mkdir()
    assert main(["runs", str(tmp_path / "none")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err == f"warning: {tmp_path / 'none'}: holds no runs\n"


def test_an_unfinished_run_names_its_data(several: list[runs.Row]) -> None:
    assert {row.path.name: row.get("data") for row in several}["going-on"] == "shapes"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_word_is_broken_on_any_terminal(tmp_path: Path, width: int) -> None:
    name = "20250101-120000-accurate-cifar10-seed0"
    ended = SUMMARY.model_copy(update={"stopped_by": "interrupt", "finished": False})
    create(tmp_path / name, CONFIG.model_copy(update={"epochs": 7, "image_sizes": (16, 24)})).write_summary(ended)
    create(tmp_path / "short")
    console = Console(width=width, file=io.StringIO())

    console.print(runs.fitting(runs.read_runs(tmp_path, PRESETS), console))

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    words = " ".join(lines).split()
    assert max(map(len, lines)) <= width
    assert {name, "short", "unfinished", "interrupt", "image_sizes", "accuracy", "90.00%"} <= set(words)


def test_csv_and_json_hold_numbers_for_other_programs(
    several: list[runs.Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(tmp_path), "--csv", "--sort", "accuracy"]) == 0
    text = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert main(["runs", str(tmp_path), "--json", "--filter", "data=cifar10"]) == 0
    (found,) = json.loads(capsys.readouterr().out)

    assert [row["run"] for row in rows] == names(runs.chosen(several, sort="accuracy"))
    header = text.partition("\n")[0].split(",")
    assert len(header) == len(set(header)) and "epochs" in rows[0]["differs"]
    assert [row["accuracy"] for row in rows] == ["0.9", "0.8", "0.7", "0.5", "", ""]
    assert rows[0]["optim.lr"] == "0.001" and rows[0]["state"] == "finished" and rows[-1]["state"] == "unfinished"
    assert "batch_size" in rows[0]["differs"] and rows[4]["note"].startswith("damaged") is False
    assert found["run"] == "run0" and found["accuracy"] == 0.5 and found["accuracy_tta"] is None
    assert found["config"]["optim.lr"] == 0.1 and found["differs"]["model.widths"] == [8, 8]
    assert main(["runs", str(tmp_path), "--json", "--csv"]) == 2


def test_why_a_run_has_ended_is_shown(tmp_path: Path) -> None:
    for reason, finished in (("patience", True), ("interrupt", False)):
        ended = SUMMARY.model_copy(update={"stopped_by": reason, "finished": finished})
        create(tmp_path / reason).write_summary(ended)

    rows = cells(runs.as_table(runs.read_runs(tmp_path, PRESETS)))
    assert rows["patience"]["state"] == "finished: patience" and rows["interrupt"]["state"] == "stopped: interrupt"
