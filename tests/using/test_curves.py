from pathlib import Path

import pytest
from PIL import Image

from dynconv.config import RunConfig
from dynconv.errors import DynconvError
from dynconv.training.rundir import RunDir
from dynconv.using import curves, runs


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(RunConfig(run=tmp_path / "one", preset="quick", epochs=2), "shapes")
    for epoch in (1, 2):
        figures = {f"{split}_{what}": epoch / 10 for split in ("train", "test") for what in ("loss", "accuracy")}
        run.append({"kind": "epoch", "epoch": epoch, "step": epoch, "data": "shapes", **figures})
    return run


def test_both_curves_show_the_recorded_figures(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict[str, list[float]]] = {}
    save = curves.Figure.savefig

    def look(figure: curves.Figure, path: Path, **options: int) -> None:
        (axes,) = figure.axes
        drawn[path.name] = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}  # type: ignore[arg-type]
        assert axes.get_xlabel() == "epoch" and "shapes" in axes.get_title()
        save(figure, path, **options)

    monkeypatch.setattr(curves.Figure, "savefig", look)
    paths = curves.plot_curves(run)

    assert [path.name for path in paths] == ["loss.png", "accuracy.png"]
    assert drawn["loss.png"] == {"training (augmented images)": [0.1, 0.2], "validation (test set)": [0.1, 0.2]}
    assert drawn["accuracy.png"]["validation (test set)"] == pytest.approx([10.0, 20.0])
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 400


def test_a_run_without_an_epoch_has_no_curves(tmp_path: Path) -> None:
    assert curves.plot_curves(RunDir.create(RunConfig(run=tmp_path / "none"), "shapes")) == []


def cells(table: object) -> dict[str, list[str]]:
    columns = [list(column.cells) for column in table.columns]  # type: ignore[attr-defined]
    return {row[0]: list(row[1:]) for row in zip(*columns, strict=True)}


def test_the_table_of_runs_tells_finished_from_cut_off_from_damaged(run: RunDir, tmp_path: Path) -> None:
    done = RunDir.create(RunConfig(run=tmp_path / "done"), "shapes")
    done.write_summary({
        "preset": "quick", "data": "shapes", "seed": 3, "epochs": 2, "epochs_planned": 2, "test_accuracy": 0.9,
        "test_accuracy_tta": None, "train_seconds": 61.2, "finished": True, "stopped_by": None,
    })  # fmt: skip
    damaged = RunDir.create(RunConfig(run=tmp_path / "damaged"), "shapes")
    (damaged.path / "summary.json").write_text("{}")

    rows = cells(runs.runs_table(tmp_path))

    assert rows["done"] == ["quick", "shapes", "3", "2/2", "90.00%", "-", "61 s", "finished"]
    assert rows["one"][3] == "2/2" and rows["one"][-1] == "unfinished"
    assert rows["damaged"][-1].startswith("damaged")
    with pytest.raises(DynconvError, match="does not exist"):
        runs.runs_table(tmp_path / "nowhere")
