import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from summaries import SUMMARY
from tiny import CONFIG, create

from dynconv.artifacts import rundir
from dynconv.artifacts.environment import environment
from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import EpochLine, StepLine
from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError

STEP = StepLine(step=1, epoch=0.1, loss=2.0, lr={"experts": 0.1}, image_size=16, images_per_second=10.0, seconds=1.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create(tmp_path / "run", CONFIG.model_copy(update={"seed": 4, "epochs": 3}), data_source="shapes")


def create_by_default(seed: int = 4) -> RunDir:
    tree = CONFIG.model_copy(update={"seed": seed}).model_dump(mode="json")
    return RunDir.create(None, tree, environment("cifar10"))


def test_configuration_and_environment_are_there_from_the_start(run: RunDir) -> None:
    opened = RunDir.open(run.path)

    assert opened.config == run.config and opened.config.tree() == run.config.tree()
    assert (run.path / "config.yaml").read_text().startswith("# data: shapes\nformat: 2\n")
    about = opened.environment
    assert about.data == about.data_source == "shapes" and about.threads is not None and about.threads >= 1
    assert {"python", "packages", "processor", "git_commit", "command"} <= about.tree().keys()


def test_what_says_where_and_on_what_a_run_ran_is_not_in_what_two_runs_are_compared_by(run: RunDir) -> None:
    assert not {"run", "device", "compile"} & run.config.tree().keys()
    assert run.config.tree()["data"].keys() == {"size", "fit"}
    assert {"data_source", "device", "compile"} <= run.environment.tree().keys()


def test_default_names_say_what_the_run_is_and_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [create_by_default().path for _ in range(3)]

    assert len(set(paths)) == 3
    assert all(path.parent == Path("runs") and "quick-cifar10-seed4" in path.name for path in paths)


def test_a_name_that_another_process_takes_in_the_same_second_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked free, and is taken, empty, when the directory is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rundir.time, "strftime", lambda _: "now")
    (tmp_path / "runs/now-quick-cifar10-seed0").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", lambda _: False)

    assert create_by_default(seed=0).path == Path("runs/now-quick-cifar10-seed0-2")
    assert list((tmp_path / "runs/now-quick-cifar10-seed0").iterdir()) == []


def test_numbers_that_are_not_finite_are_not_written(run: RunDir) -> None:
    """JSON has none."""
    with pytest.raises(ValueError, match="JSON"):
        run.write_summary(SUMMARY.model_copy(update={"test_loss": float("nan")}))
    with pytest.raises(ValueError, match="JSON"):
        run.append(STEP.model_copy(update={"loss": float("inf")}))
    assert not (run.path / "summary.json").exists()


def test_a_directory_that_vanishes_is_to_be_brought_back(run: RunDir) -> None:
    """As a disk that is unmounted while a network trains."""
    shutil.rmtree(run.path)

    with pytest.raises(DynconvError, match="its folder is gone, bring it back, then continue with --resume"):
        run.append(STEP)
    assert not run.path.exists()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(DynconvError, match="not empty"):
        create(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DynconvError, match=r"notes\.txt.*cannot be created"):
        create(tmp_path / "notes.txt")


def test_metrics_survive_a_line_cut_off_at_the_end_but_not_damage_within(run: RunDir) -> None:
    for step in (1, 2, 3):
        run.append(STEP.model_copy(update={"step": step}))
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"kind": "st')
    assert [line.step for line in run.metrics().steps] == [1, 2, 3]

    run.rewind(2, 0)
    assert [line.step for line in run.metrics().steps] == [1, 2]

    for damaged in ('{"kind"', "[" * 100_000, "3", '{"kind": "step"}'):
        file.write_text(damaged + '\n{"kind": "step", "step": 1}\n')
        with pytest.raises(DynconvError, match="line 1 is damaged"):
            run.metrics()


def test_lines_that_lack_something_are_named_and_those_of_later_versions_passed_over(run: RunDir) -> None:
    run.append(STEP)
    file = run.path / "metrics.jsonl"
    lines = ['{"kind": "epoch", "step": 1, "epoch": 1}', '{"kind": "gradients", "step": 1}']
    file.write_text("\n".join([file.read_text().strip(), *lines]) + "\n")

    metrics = run.metrics()

    assert len(metrics.steps) == 1 and metrics.epochs == []
    assert metrics.damaged == ["line 2 (train_loss: Field required)"]
    run.rewind(1, 0)
    assert len(file.read_text().splitlines()) == 3


def test_fields_of_later_versions_pass_through(run: RunDir) -> None:
    epoch = EpochLine(
        epoch=1, step=2, train_loss=1.0, train_accuracy=0.5, test_loss=1.0, test_accuracy=0.5, lr={}, image_size=16,
        seconds=1.0, routing=[],
    )  # fmt: skip
    run.append(EpochLine.model_validate({**epoch.tree(), "sharpness": 3.0}))

    (read,) = run.metrics().epochs

    assert read.tree()["sharpness"] == 3.0 and read.validation_accuracy is None


def test_predictions_and_summary_come_back(run: RunDir) -> None:
    assert run.summary() is None
    run.write_summary(SUMMARY)
    run.write_predictions(Predictions(torch.tensor([0, 1]), torch.eye(2), ("a", "b"), "shapes"))

    summary = run.summary()
    assert summary is not None and summary.test_accuracy == summary.best_accuracy == 0.9 and summary.command
    with np.load(run.path / "predictions.npz") as predictions:
        assert predictions["classes"].tolist() == ["a", "b"] and str(predictions["data"]) == "shapes"
        assert predictions["probabilities"].dtype == np.float32 and predictions["labels"].tolist() == [0, 1]
    assert run.predictions().classes == ("a", "b")

    for damaged in ("{", "[]", json.dumps({**SUMMARY.tree(), "test_accuracy": "high"})):
        (run.path / "summary.json").write_text(damaged)
        with pytest.raises(DynconvError, match=r"summary\.json: damaged.*dynconv evaluate"):
            run.summary()


def test_what_is_no_run_and_what_is_damaged_is_named(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(DynconvError, match="not a run directory"):
        RunDir.open(tmp_path)
    for damaged in ("epochs: -1\n", "a: 2020-13-45\n", "- 3\n", "format: new\n", "a: {b", "[" * 5000):
        (run.path / "config.yaml").write_text(damaged)
        with pytest.raises(DynconvError, match=r"config\.yaml: (damaged|not YAML|must hold fields)") as caught:
            RunDir.open(run.path)
        assert str(caught.value).isprintable()


def test_a_history_that_is_shorter_than_the_state_is_not_lost_without_a_word(run: RunDir) -> None:
    file = run.path / "metrics.jsonl"
    for step in (1, 2, 3):
        run.append(STEP.model_copy(update={"step": step}))
    whole = file.read_bytes()
    (run.path / "summary.json").write_text("{")
    for damaged in (b"", whole[: len(whole) // 2], bytes(len(whole)), whole.replace(b'"loss"', b'"lost"', 1), None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        with pytest.raises(DynconvError, match=r"metrics\.jsonl: holds [0-2] of the 3 steps and 0 of the 0 epochs"):
            run.rewind(3, 0)
        assert (file.read_bytes() if file.exists() else None) == damaged, "nothing is changed"
    file.write_bytes(whole)
    with pytest.raises(DynconvError, match="holds 3 of the 3 steps and 0 of the 1 epochs"):
        run.rewind(3, 1)

    run.rewind(3, 0)

    assert file.read_bytes() == whole and run.summary() is None


def test_what_json_allows_and_others_do_not_is_one_line(run: RunDir) -> None:
    """Line separators within a string, long numbers, deep nesting, numbers that no counter reaches."""
    run.append(STEP)
    file = run.path / "metrics.jsonl"
    whole = file.read_text()
    file.write_text('{"kind": "warning", "step": 1, "text": "a\u2028b"}\n' + whole, encoding="utf-8")
    assert run.metrics().warnings[0].text == "a\u2028b" and len(run.metrics().steps) == 1
    for damaged in ('{"kind": "step", "step": ' + "9" * 5000 + "}", "[" * 100_000, '{"kind": "step", "step": 1e999}'):
        file.write_text(f"{damaged}\n{whole}")
        with pytest.raises(DynconvError, match=r"metrics\.jsonl: line 1 is damaged"):
            run.metrics()


def test_a_damaged_summary_does_not_keep_a_run_from_being_continued(run: RunDir) -> None:
    for damaged in ("{", "[" * 100_000, '{"finished": 9' + "9" * 5000 + "}"):
        (run.path / "summary.json").write_text(damaged)
        with pytest.raises(DynconvError, match="damaged"):
            run.summary()
        assert RunDir.reopen(run.path).path == run.path
