"""`dynconv train --seeds`: several runs, begun, skipped and continued as needed, then compared."""

from pathlib import Path

import pytest
from tiny import WORDS

from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main

TRAINING = ["train", "quick", *WORDS, "--epochs", "1", "--seeds"]


def test_runs_are_trained_once_each_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAINING, "0-1", "--run", str(tmp_path)]) == 0
    first = capsys.readouterr().out.splitlines()
    began = {seed: RunDir.open(tmp_path / f"seed{seed}").environment.started for seed in (0, 1)}
    assert main([*TRAINING, "0-1,4", "--run", str(tmp_path)]) == 0
    second = capsys.readouterr().out.splitlines()

    assert first[:2] == second[:2] and first[0].startswith("seed 0: test accuracy on shapes: ")
    assert second[2].startswith("seed 4: ") and first[-1] == second[-1] == str(tmp_path)
    accuracies = [float(line.split(": ")[2].split("%")[0]) for line in second[:3]]
    assert f"test accuracy: {sum(accuracies) / 3:.2f} ± " in "\n".join(second) and "(n = 3)" in second[3]
    assert all(RunDir.open(tmp_path / f"seed{seed}").environment.started == began[seed] for seed in (0, 1))
    assert {RunDir.open(path).config.seed for path in tmp_path.glob("seed*")} == {0, 1, 4}
    assert (tmp_path / "report" / "report.html").exists()


def test_a_run_that_was_interrupted_is_continued(tmp_path: Path) -> None:
    assert main([*TRAINING, "3", "--run", str(tmp_path)]) == 0
    run = RunDir.open(tmp_path / "seed3")
    losses = [line.loss for line in run.metrics().steps]
    (run.path / "summary.json").unlink()

    assert main([*TRAINING, "3", "--run", str(tmp_path)]) == 0
    assert [line.loss for line in run.metrics().steps] == losses and run.summary()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0-"], "must be seeds such as 0-4 or 0,3,7"),
        (["4-0"], "must be seeds such as 0-4 or 0,3,7"),
        (["1,1"], "seeds: must be different seeds"),
        (["0-1", "--seed", "3"], "--seeds goes with neither --seed nor --resume"),
        (["0-1", "--time", "3h"], "--time goes with none of"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main([*TRAINING, *words, "--run", str(tmp_path / "runs")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_runs_of_another_configuration_are_not_mixed_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAINING, "0", "--run", str(tmp_path)]) == 0
    assert main([*TRAINING, "0", "--run", str(tmp_path), "--optim.lr", "0.1"]) == 2
    assert f"{tmp_path / 'seed0'}: has optim.lr 0.17, not 0.1; choose another --run" in capsys.readouterr().err
