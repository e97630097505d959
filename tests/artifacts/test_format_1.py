"""What the first release wrote stays readable for ever: a finished run, an interrupted one, the shipped weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from dynconv.artifacts.found_weights import packaged_weights
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.training.launch import config_of

WRITTEN = Path(__file__).parent / "format-1"


@pytest.fixture
def old(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run of the first release."""
    return lambda name: Path(shutil.copytree(WRITTEN / name, tmp_path / name))


def test_a_run_is_read_whole() -> None:
    run = RunDir.open(WRITTEN / "finished")
    metrics, summary = run.metrics(), run.summary()

    assert (run.config.preset, run.config.epochs, run.config.holdout, run.config.tta) == ("quick", 2, 500, True)
    assert run.config.model.widths == (8, 8) and run.config.model.gate == ("softmax",)
    assert len(metrics.steps) == 38 and len(metrics.epochs) == 2 and not metrics.damaged
    assert summary is not None and summary.finished and summary.test_accuracy == metrics.epochs[-1].test_accuracy
    assert run.environment.data_source == "shapes" and run.environment.data == "shapes"
    assert len(run.predictions().labels) == 2000
    assert config_of(run).optim.head_lr == 0.035 and config_of(run).optim.ema == 0.5


def test_its_network_classifies_as_it_did() -> None:
    run = RunDir.open(WRITTEN / "finished")
    predictor = Predictor.load(run.path)
    from dynconv.data import shapes

    images = shapes.generate(0, test_images=2000).test.images

    probabilities = predictor.probabilities(images, tta=True)

    torch.testing.assert_close(probabilities, run.predictions().probabilities, rtol=0, atol=1e-4)
    assert predictor.classes == run.predictions().classes and predictor.data_name == "shapes"
    assert "quick" in predictor.provenance


def test_evaluate_and_train_take_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = WRITTEN / "finished"
    summary = json.loads((run / "summary.json").read_text())

    assert main(["evaluate", str(run), "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(summary["validation_accuracy"], abs=0.005)

    words = ["train", "--config", str(run / "config.yaml"), "--epochs", "1", "--no-tta", "--run", str(tmp_path / "run")]
    assert main(words) == 0
    again = RunDir.open(tmp_path / "run")
    assert again.environment.data == "shapes" and again.config.holdout == 500
    assert again.config.model == RunDir.open(run).config.model


def test_an_interrupted_run_is_resumed(old: Callable[[str], Path]) -> None:
    """With the outcome that the first release itself reached from there, to rounding."""
    run = old("interrupted")
    before = RunDir.open(run).metrics().epochs[0]

    assert main(["train", "--resume", str(run)]) == 0

    summary, metrics = RunDir.open(run).summary(), RunDir.open(run).metrics()
    assert summary is not None and summary.finished and summary.epochs == 3
    assert metrics.epochs[0] == before and len(metrics.epochs) == 3
    assert [line.step for line in metrics.steps] == list(range(1, 61))
    assert summary.test_loss == pytest.approx(2.1528759, rel=0.02)


def test_a_state_without_its_network_is_damaged(old: Callable[[str], Path]) -> None:
    run = old("interrupted")
    state = load_state(run / "state.pt")
    assert "head.linear.weight" in state["net"]
    torch.save({name: value for name, value in state.items() if name != "net"}, run / "state.pt")

    assert main(["train", "--resume", str(run)]) == 2


def test_the_shipped_weights_are_read() -> None:
    weights = load_weights(packaged_weights("standard"))

    assert weights.model.widths == (64, 64, 256, 256, 256, 256) and weights.data_name == "cifar10"
    assert "head.linear.weight" in weights.state and "classifier.linear.weight" not in weights.state


def test_a_run_of_a_newer_version_says_so_in_one_line(old: Callable[[str], Path]) -> None:
    run = old("finished")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({"format": 99, **tree}))

    with pytest.raises(DynconvError, match="a run of format 99, newer than this dynconv can read") as caught:
        RunDir.open(run)
    assert "\n" not in str(caught.value)
