"""Several processes, started by torchrun, train the network that one process would."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from together import TRAINING, losses, output_of, torchrun, wait_for_steps

from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.data.augment import AugmentConfig
from dynconv.data.batches import training_batches
from dynconv.errors import DynconvError
from dynconv.training.distributed import Group, require_restartable


def number_of(rank: int, run: Path) -> int:
    """The number of the process that has this rank in the training of `run`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, settings = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if str(run).encode() in words.split(b"\0") and f"RANK={rank}".encode() in settings.split(b"\0"):
            return int(process.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main([*TRAINING, "--run", str(run)]) == 0
    return run


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.large)])
def test_any_number_of_processes_trains_the_same_network(tmp_path: Path, alone: Path, processes: int) -> None:
    run = tmp_path / "run"
    with torchrun(processes, *TRAINING, "--run", str(run)) as process:
        output = output_of(process)

    assert process.returncode == 0, output
    assert losses(run) == pytest.approx(losses(alone), abs=2e-3)
    one, several = (RunDir.open(each).summary() for each in (alone, run))
    assert one and several and several.finished
    assert several.test_accuracy == pytest.approx(one.test_accuracy, abs=0.02)
    assert several.train_accuracy == pytest.approx(one.train_accuracy, abs=0.02)
    assert output.count("test accuracy on shapes") == len(re.findall(r"^ +4/4 ", output, re.MULTILINE)) == 1


@pytest.mark.large
def test_balanced_classes_and_a_hold_out_that_ends_it(tmp_path: Path) -> None:
    """are the same in two processes: the same images, losses and end, and the weights of the same epoch."""
    words = [*TRAINING, "--epochs", "3", "--sampling", "balanced", "--holdout", "500", "--target", "0.05"]
    words += ["--patience", "3", "--no-tta", "--run"]
    assert main([*words, str(tmp_path / "one")]) == 0
    with torchrun(2, *words, str(tmp_path / "two")) as process:
        output = output_of(process)

    assert process.returncode == 0, output
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-3)
    one, two = (RunDir.open(tmp_path / name).summary() for name in ("one", "two"))
    assert one and two and two.finished and (one.stopped_by, one.epochs) == ("target", 1)
    assert (two.stopped_by, two.epochs, two.selected_epoch) == (one.stopped_by, one.epochs, one.selected_epoch)
    assert two.validation_accuracy == pytest.approx(one.validation_accuracy, abs=0.02)
    assert output.count("the weights are those of epoch 1, the best on the hold-out") == 1


@pytest.mark.large
def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """ends the others; torchrun starts all again, and they end as if nothing had happened."""
    words = [*TRAINING, "--checkpoint-minutes", "1e-9", "--run"]
    with torchrun(2, *words, str(tmp_path / "whole")) as process:
        assert process.wait() == 0, output_of(process)
    run = tmp_path / "killed"
    with torchrun(2, *words, str(run), options=("--max-restarts=1",)) as process:
        wait_for_steps(run, 7, process)
        os.kill(number_of(1, run), signal.SIGKILL)
        output = output_of(process)

    assert process.returncode == 0, output
    assert "has ended" in output or "SIGKILL" in output  # torchrun may end the other one before it has said so
    assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.large
def test_a_process_that_is_killed_without_restarts(
    tmp_path: Path, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ends the others, which say so in one line; one process goes on with what they saved."""
    run = tmp_path / "run"
    with torchrun(2, *TRAINING, "--checkpoint-minutes", "1e-9", "--run", str(run)) as process:
        wait_for_steps(run, 7, process)
        os.kill(number_of(1, run), signal.SIGKILL)
        output = output_of(process)

    assert process.returncode != 0
    assert output.count("dynconv: error:") <= 1, output
    assert "has ended" in output or "SIGKILL" in output  # torchrun may end the other one before it has said so
    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert losses(run) == pytest.approx(losses(alone), abs=2e-3)


@pytest.mark.large
def test_a_notice_of_the_scheduler(tmp_path: Path, alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """saves the state, with which one process can go on."""
    run = tmp_path / "run"
    with torchrun(2, *TRAINING, "--run", str(run)) as process:
        wait_for_steps(run, 5, process)
        process.send_signal(signal.SIGTERM)
        output = output_of(process)

    assert output.count("nothing is lost") == 1, output
    assert 5 <= len(losses(run)) < len(losses(alone))
    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert losses(run) == pytest.approx(losses(alone), abs=2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "/nowhere"], "/nowhere: does not exist"),
        (["--micro-batch", "1", "--batch-size", "1"], "2 processes cannot share a micro_batch of 1 images"),
        (
            ["--batch-size", "12000", "--micro-batch", "3000"],
            "micro_batch: 3000 does not divide the batch of 10000 images that 2 processes share",
        ),
    ],
)
def test_a_mistake_is_told_once(tmp_path: Path, words: list[str], message: str) -> None:
    with torchrun(2, *TRAINING, *words, "--run", str(tmp_path / "run")) as process:
        output = output_of(process)

    assert process.returncode != 0
    assert output.count("dynconv: error:") == output.count(message) == 1, output
    assert not (tmp_path / "run").exists()


def test_a_time_is_for_one_process(tmp_path: Path) -> None:
    words = ["train", "quick", "--data", "shapes", "--device", "cpu", "--time", "10m", "--run", str(tmp_path / "run")]
    with torchrun(2, *words) as process:
        output = output_of(process)

    assert process.returncode != 0
    assert output.count("dynconv: error:") == output.count("--time measures one process") == 1, output
    assert not (tmp_path / "run").exists()


def test_restarts_need_a_directory_to_go_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")

    assert main(TRAINING) == 2
    assert "needs --run PATH" in capsys.readouterr().err


def test_restarts_on_several_machines_need_a_store_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"MAX_RESTARTS": "3", "USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    require_restartable(tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")

    with pytest.raises(DynconvError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        require_restartable(tmp_path)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_parts_of_a_group_are_all_there_is(count: int) -> None:
    parts = [list(range(count))[Group(rank, 5).part(count)] for rank in range(5)]

    assert [each for part in parts for each in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("fields", [{}, {"flip": "random", "cutout": 8}, {"mixup": 0.4, "cutmix": 0.4}])
def test_an_image_is_augmented_alike_in_whatever_process(fields: dict[str, Any]) -> None:
    split, augment = shapes.generate(0, 200, 100).train, AugmentConfig(**fields)
    mine = torch.tensor([3, 4, 5, 13, 14, 15])
    whole = training_batches(split, 10, augment, 20, 24, 1, 0)
    part = training_batches(split, 10, augment, 20, 24, 1, 0, mine=mine)

    for (images, target), (own_images, own_target) in zip(whole, part, strict=True):
        assert torch.equal(images[mine], own_images) and torch.equal(target[mine], own_target)
