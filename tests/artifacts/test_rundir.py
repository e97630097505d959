import json
from pathlib import Path

import numpy as np
import pytest
import torch
from summaries import SUMMARY

from dynconv.artifacts import rundir
from dynconv.artifacts.rundir import RunDir
from dynconv.config import FIXED, RunConfig
from dynconv.errors import DynconvError


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(RunConfig(run=tmp_path / "run", seed=4, epochs=3), "shapes")


def test_configuration_and_environment_are_there_from_the_start(run: RunDir) -> None:
    opened = RunDir.open(run.path)

    assert opened.config == run.config
    assert (run.path / "config.yaml").read_text().startswith("# data: shapes\n")
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["data"] == "shapes" and environment["threads"] >= 1
    assert {"python", "packages", "processor", "git_commit", "command"} <= environment.keys()
    assert environment["fixed"] == FIXED


def test_default_names_say_what_the_run_is_and_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [RunDir.create(RunConfig(preset="quick", seed=4), "cifar10").path for _ in range(3)]

    assert len(set(paths)) == 3
    assert all(path.parent == Path("runs") and "quick-cifar10-seed4" in path.name for path in paths)


def test_a_name_that_another_process_takes_in_the_same_second_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked free, and is taken, empty, when the directory is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rundir.time, "strftime", lambda _: "now")
    (tmp_path / "runs/now-quick-shapes-seed0").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", lambda _: False)

    assert RunDir.create(RunConfig(preset="quick"), "shapes").path == Path("runs/now-quick-shapes-seed0-2")
    assert list((tmp_path / "runs/now-quick-shapes-seed0").iterdir()) == []


def test_numbers_that_are_not_finite_are_not_written(run: RunDir) -> None:
    """JSON has none."""
    with pytest.raises(ValueError, match="JSON"):
        run.write_summary(SUMMARY | {"test_loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        run.append({"loss": float("inf")})
    assert not (run.path / "summary.json").exists()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(DynconvError, match="not empty"):
        RunDir.create(RunConfig(run=tmp_path), "shapes")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DynconvError, match=r"notes\.txt.*cannot be made"):
        RunDir.create(RunConfig(run=tmp_path / "notes.txt"), "shapes")


def test_metrics_survive_a_line_cut_off_at_the_end_but_not_damage_within(run: RunDir) -> None:
    for step in (1, 2, 3):
        run.append({"kind": "step", "step": step})
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"kind": "st')
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]

    run.rewind(2)
    assert [record["step"] for record in run.metrics()] == [1, 2]

    file.write_text('{"kind"\n{"step": 1}\n')
    with pytest.raises(DynconvError, match="line 1 is damaged"):
        run.metrics()


def test_predictions_and_summary_come_back(run: RunDir) -> None:
    assert run.summary() is None
    run.write_summary(SUMMARY)
    run.write_predictions("shapes", torch.tensor([0, 1]), torch.eye(2), ("a", "b"))

    summary = run.summary()
    assert summary is not None and summary["test_accuracy"] == 0.9 and {"version", "command"} <= summary.keys()
    with np.load(run.path / "predictions.npz") as predictions:
        assert predictions["classes"].tolist() == ["a", "b"] and str(predictions["data"]) == "shapes"
        assert predictions["probabilities"].dtype == np.float32 and predictions["labels"].tolist() == [0, 1]

    (run.path / "summary.json").write_text("{")
    with pytest.raises(DynconvError, match=r"summary\.json: damaged"):
        run.summary()


def test_what_is_no_run_and_what_is_damaged_is_named(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(DynconvError, match="is no run directory"):
        RunDir.open(tmp_path)
    (run.path / "config.yaml").write_text("epochs: -1\n")
    with pytest.raises(DynconvError, match=r"config\.yaml: damaged"):
        RunDir.open(run.path)
