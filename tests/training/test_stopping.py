"""Stopping by images held out of training: when, with which weights, and the same after an interruption."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, WORDS, create

from dynconv.artifacts.records import Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.cli.main import main
from dynconv.data import Dataset, hold_out, shapes
from dynconv.training.config import TrainConfig
from dynconv.training.progress import Progress
from dynconv.training.stopping import Stopping
from dynconv.training.trainer import Trainer

PATIENT = CONFIG.model_copy(update={"epochs": 8, "patience": 2, "tta": False, "batch_size": 200, "micro_batch": 200})
ACCURACIES = (0.3, 0.5, 0.4, 0.5, 0.45, 0.6, 0.1, 0.1)
"""On the hold-out, epoch by epoch, in place of the measured ones: patience 2 ends after the fourth, of 0.5."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return hold_out(shapes.generate(0, 700, 100), 100, 0)


class Told(Trainer):
    """Told what the accuracy on the hold-out is; notes the weights at the end of each epoch."""

    accuracies = ACCURACIES
    notes: dict[int, dict[str, torch.Tensor]]
    crash_after: int | None = None

    def evaluate(self) -> dict[str, Any]:
        figures = super().evaluate()
        epoch = self.epochs_done + 1
        self.notes = getattr(self, "notes", {}) | {epoch: self.learner.snapshot()}
        return figures | {"validation_accuracy": self.accuracies[epoch - 1]}

    def save(self) -> None:
        super().save()
        if self.epochs_done == self.crash_after and not self.sums.steps:
            raise CrashError


class CrashError(Exception):
    pass


def fit(run: RunDir, dataset: Dataset, config: TrainConfig = PATIENT, *, resume: bool = False) -> tuple[Told, Summary]:
    with Progress() as progress:
        trainer = Told(config, dataset, run, progress, device="cpu")
        return trainer, trainer.fit(resume=resume)


def weights_of(run: RunDir) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in load_weights(run.weights).state.items()}


def epochs_of(run: RunDir) -> list[tuple[int, float, float]]:
    return [(line.epoch, line.train_loss, line.test_accuracy) for line in run.metrics().epochs]


@pytest.fixture(scope="module")
def patient(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Told, Summary]:
    run = create(tmp_path_factory.mktemp("patient"), PATIENT)
    return run, *fit(run, dataset)


def test_patience_ends_a_run_with_the_weights_of_its_best_epoch(patient: tuple[RunDir, Told, Summary]) -> None:
    run, trainer, summary = patient

    assert (summary.stopped_by, summary.finished, summary.epochs) == ("patience", True, 4)
    assert (summary.selected_by, summary.selected_epoch) == ("hold-out accuracy", 2), "of equally good ones the first"
    assert weights_of(run) == {name: tensor.tolist() for name, tensor in trainer.notes[2].items()}
    assert weights_of(run) != {name: tensor.tolist() for name, tensor in trainer.notes[4].items()}
    best = run.metrics().epochs[1]
    assert (summary.validation_accuracy, summary.train_accuracy) == (0.5, best.train_accuracy)
    assert (summary.test_accuracy, summary.test_loss) == (best.test_accuracy, pytest.approx(best.test_loss))
    assert "weights of epoch 2, the best on the hold-out (50.00%)" in load_weights(run.weights).provenance
    predicted = run.predictions().probabilities.argmax(1) == run.predictions().labels
    assert float(predicted.float().mean()) == pytest.approx(summary.test_accuracy)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_run_that_was_killed_after_any_epoch_ends_the_same(
    tmp_path: Path, dataset: Dataset, patient: tuple[RunDir, Told, Summary], after: int
) -> None:
    """After the fourth, it has only to stop."""
    run = create(tmp_path / "run", PATIENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Told, "crash_after", after)
        with pytest.raises(CrashError):
            fit(run, dataset)
    _, summary = fit(run, dataset, resume=True)

    whole, _, expected = patient
    assert weights_of(run) == weights_of(whole) and epochs_of(run) == epochs_of(whole)
    changing = {"train_seconds", "total_seconds", "peak_memory_bytes"}
    assert {name: value for name, value in summary if name not in changing} == {
        name: value for name, value in expected if name not in changing
    }


def test_the_last_epoch_is_no_reason_to_stop_and_the_best_weights_are_kept_all_the_same(
    tmp_path: Path, dataset: Dataset
) -> None:
    config = PATIENT.model_copy(update={"epochs": 4, "patience": 2})
    run = create(tmp_path / "run", config)
    trainer, summary = fit(run, dataset, config)

    assert (summary.stopped_by, summary.finished, summary.selected_epoch) == (None, True, 2)
    assert weights_of(run) == {name: tensor.tolist() for name, tensor in trainer.notes[2].items()}


def test_a_target_ends_a_run_with_the_weights_that_reach_it(tmp_path: Path, dataset: Dataset) -> None:
    config = PATIENT.model_copy(update={"patience": 0, "target": 0.5})
    run = create(tmp_path / "run", config)
    trainer, summary = fit(run, dataset, config)

    assert (summary.stopped_by, summary.finished, summary.epochs, summary.selected_epoch) == ("target", True, 2, None)
    assert weights_of(run) == {name: tensor.tolist() for name, tensor in trainer.notes[2].items()}
    assert summary.validation_accuracy == 0.5
    assert load_state(run.state)["best"]["weights"] is None, "the last weights need no second copy"


def test_the_schedule_is_that_of_all_epochs(patient: tuple[RunDir, Told, Summary]) -> None:
    rates = [line.lr["experts"] for line in patient[0].metrics().epochs]

    assert rates[3] == pytest.approx(PATIENT.optim.lr * (1 - 11 / 24), rel=1e-6), "of a linear decay over 24 steps"


def test_evaluate_reproduces_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, with the accuracies that it measures."""
    words = [
        "train", "quick", *WORDS, "--epochs", "6", "--holdout", "500", "--patience", "1", "--no-report", "--no-tta",
        "--optim.name", "sgd", "--optim.lr", "3", "--optim.weight-decay", "0", "--run", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    summary = RunDir.open(tmp_path / "run").summary()
    assert summary and summary.selected_epoch and f"the weights are those of epoch {summary.selected_epoch}" in said
    accuracies = [line.validation_accuracy or 0 for line in RunDir.open(tmp_path / "run").metrics().epochs]
    assert max(accuracies) == summary.validation_accuracy

    for split, expected in (("test", summary.test_accuracy), ("validation", summary.validation_accuracy)):
        assert main(["evaluate", str(tmp_path / "run"), "--split", split, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(expected)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2, "there is nothing to resume"


@pytest.mark.parametrize("words", [[], ["--seeds", "0-1"]])
def test_without_a_hold_out_nothing_is_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dynconv.data.load", lambda *_, **__: pytest.fail("the data were loaded"))

    assert main(["train", "quick", "--patience", "3", *words]) == 2

    assert "patience: is judged on images held out of training; add --holdout 5000" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["patience", "target"])
def test_without_a_hold_out_it_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["train", "quick", *WORDS, f"--{option}", "1", "--run", str(tmp_path / "run")]) == 2

    assert f"{option}: is judged on images held out of training; add --holdout 1000" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda best: best.update(epoch=-1),
        lambda best: best.update(accuracy="high"),
        lambda best: best.update(weights={"a": 1}),
        lambda best: best.update(weights=None),
        lambda best: best.update(epoch=9),
        lambda best: best["weights"].popitem(),
        lambda best: next(iter(best["weights"].values())).fill_(float("nan")),
    ],
)
def test_a_state_with_a_damaged_best_epoch_is_one_line(
    tmp_path: Path, dataset: Dataset, patient: tuple[RunDir, Told, Summary], change: Callable[[Any], object]
) -> None:
    from dynconv.errors import DynconvError

    run = create(tmp_path / "run", PATIENT)
    for name in ("state.pt", "metrics.jsonl"):
        (run.path / name).write_bytes((patient[0].path / name).read_bytes())
    state = torch.load(run.state, weights_only=True)
    change(state["best"])
    torch.save(state, run.state)

    with pytest.raises(DynconvError, match=r"state\.pt: "):
        fit(run, dataset, resume=True)


def test_a_state_of_an_earlier_version_goes_on(tmp_path: Path, dataset: Dataset) -> None:
    config = PATIENT.model_copy(update={"epochs": 2, "patience": 0})
    run = create(tmp_path / "run", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Told, "crash_after", 1)
        with pytest.raises(CrashError):
            fit(run, dataset, config)
    state = torch.load(run.state, weights_only=True)
    del state["best"]
    torch.save(state, run.state)

    assert fit(run, dataset, config, resume=True)[1].finished


def test_both_reasons_and_none() -> None:
    def reasons(**fields: Any) -> list[str | None]:
        stopping = Stopping(CONFIG.model_copy(update=fields))
        found = []
        for epoch, accuracy in enumerate(ACCURACIES, 1):
            stopping.see(epoch, accuracy, dict)
            found.append(stopping.reason(epoch))
        return found

    assert reasons() == [None] * 8
    assert reasons(patience=2) == [None] * 3 + ["patience"] * 2 + [None] * 2 + ["patience"]
    assert reasons(target=0.5) == [None] + ["target"] * 7
    assert reasons(patience=2, target=0.6)[3] == "patience"
