"""Training from Python."""

from pathlib import Path

import pytest
from tiny import MODEL

import dynconv
from dynconv.artifacts.rundir import RunDir
from dynconv.training.presets import PRESETS

FIELDS = {"epochs": 2, "image_sizes": (16,), "model": MODEL.model_dump(), "optim": {"lr": 0.1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dynconv.Run:
    return dynconv.train("quick", data="shapes", run=tmp_path_factory.mktemp("runs") / "one", seed=3, **FIELDS)


def test_the_run_is_what_the_command_leaves(run: dynconv.Run) -> None:
    summary = RunDir.open(run.path).summary()

    assert summary == run.summary and run.accuracy == summary.best_accuracy
    assert run.config["seed"] == 3 and run.config["optim"]["lr"] == 0.1 and run.config["optim"]["momentum"] == 0.6
    assert run.weights.exists() and repr(run) == f"Run({str(run.path)!r})"
    assert dynconv.Run(run.path).history == run.history


def test_the_history_comes_as_records_and_as_a_table(run: dynconv.Run) -> None:
    assert [line.epoch for line in run.history] == [1, 2]
    table = run.table()
    assert table["test_accuracy"] == [line.test_accuracy for line in run.history]
    assert {len(column) for column in table.values()} == {2} and "routing" not in table


def test_its_network_is_ready_to_use(run: dynconv.Run) -> None:
    from dynconv.data import shapes

    test = shapes.generate(3).test
    right = run.predictor().logits(test.images).argmax(1) == test.labels

    assert float(right.double().mean()) == pytest.approx(run.summary.test_accuracy)


def test_its_report_is_written_when_asked_for(run: dynconv.Run) -> None:
    assert not (run.path / "report").exists()

    assert run.report().read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"preset": "quik"}, f"no preset 'quik'; choose one of {', '.join(PRESETS)}"),
        ({"epohcs": 3}, "epohcs: there is no such field; did you mean epochs?"),
        ({"model": {"experts": 0}}, "model.experts: must be whole numbers, at least 1, at most 4096, not 0"),
        ({"model": 3, "model.experts": 4}, "model: is 3, and model.experts is given too; leave out one"),
        ({"device": "tpu"}, "device: must be one of auto, cpu, cuda, mps, not tpu"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, object], answer: str) -> None:
    with pytest.raises(dynconv.DynconvError) as caught:
        dynconv.train(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == answer


def test_hyper_parameters_by_dotted_names_and_in_trees() -> None:
    with pytest.raises(dynconv.DynconvError, match=r"^optim\.lr: must be .* not -1"):
        dynconv.train(data="shapes", model={"widths": [8, 8]}, **{"optim.lr": -1, "model.pools": [2]})  # type: ignore[arg-type]


def test_a_run_that_has_not_ended_says_how_to_continue(tmp_path: Path) -> None:
    from tiny import create

    with pytest.raises(dynconv.DynconvError, match=r"has not ended; dynconv train --resume"):
        _ = dynconv.Run(create(tmp_path / "run").path).summary
