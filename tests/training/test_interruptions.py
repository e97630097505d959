"""Whatever ends a training, it can go on, and ends as if nothing had happened: in weights and in metrics."""

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, WORDS, create

from dynconv.artifacts import files
from dynconv.artifacts.lock import STALE, locked
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import is_saved
from dynconv.artifacts.weights import load_weights
from dynconv.cli.main import main
from dynconv.data import Dataset, hold_out, shapes
from dynconv.errors import DynconvError
from dynconv.training import learner
from dynconv.training.config import OptimConfig
from dynconv.training.progress import Progress
from dynconv.training.signals import NoticeError
from dynconv.training.trainer import Trainer

DROPPING = CONFIG.model_copy(
    update={
        "tta": False,
        "model": CONFIG.model.model_copy(update={"dropout": 0.3}),
        "augment": CONFIG.augment.model_copy(update={"cutout": 4, "mixup": 0.5}),
        "optim": OptimConfig(ema=0.5),
    }
)
"""With everything that is drawn at random, and with an average of the weights."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return hold_out(shapes.generate(0, 700, 100), 100, 0)


class At(Progress):
    """Calls something at one step."""

    def __init__(self, step: int, call: Callable[[], object]) -> None:
        super().__init__()
        self._at, self._call = step, call

    def step(self, step: int, *figures: float) -> None:
        if step == self._at:
            self._call()


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


def fit(run: RunDir, dataset: Dataset, progress: Progress, *, resume: bool = False, every_step: bool = True) -> None:
    minutes = 1e-9 if every_step else 60.0
    with progress:
        Trainer(DROPPING, dataset, run, progress, checkpoint_minutes=minutes).fit(resume=resume)


def result(run: RunDir) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The weights, and the lines of metrics but for what depends on the clock."""
    weights = {name: tensor.tolist() for name, tensor in load_weights(run.weights).state.items()}
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None), line.pop("images_per_second", None)
    return weights, lines


@pytest.fixture(scope="module")
def uninterrupted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = create(tmp_path_factory.mktemp("whole"), DROPPING)
    fit(run, dataset, Progress())
    return result(run)


@pytest.mark.parametrize("step", [1, 5, 6, 7, 12])
def test_after_a_crash_at_any_step(tmp_path: Path, dataset: Dataset, uninterrupted: Any, step: int) -> None:
    run = create(tmp_path / "run", DROPPING)
    with pytest.raises(CrashError):
        fit(run, dataset, At(step, crash))
    fit(run, dataset, Progress(), resume=True)

    assert result(run) == uninterrupted


@pytest.mark.parametrize("what", ["write", "fsync", "rename"])
@pytest.mark.parametrize("at_call", [3, 9])
def test_after_a_disk_that_fails_within_a_checkpoint(
    tmp_path: Path, dataset: Dataset, uninterrupted: Any, what: str, at_call: int
) -> None:
    run, calls = create(tmp_path / "run", DROPPING), 0

    def failing(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*arguments, **options)

        return call

    where, name = {"write": (torch, "save"), "fsync": (files.os, "fsync"), "rename": (Path, "replace")}[what]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, failing(getattr(where, name)))
        with pytest.raises(
            DynconvError, match=r"(state\.pt|metrics\.jsonl): cannot be written \(No space left on device\)"
        ):
            fit(run, dataset, Progress())
    assert not list(run.path.glob(".*.partial"))
    fit(run, dataset, Progress(), resume=True)

    assert result(run) == uninterrupted


@pytest.mark.parametrize("step", [2, 6, 9])
def test_after_a_power_cut(tmp_path: Path, dataset: Dataset, uninterrupted: Any, step: int) -> None:
    """What was not flushed to the disk is lost: of a file that is written to its end by and by, the latest lines."""
    run, on_disk = create(tmp_path / "run", DROPPING), {}
    metrics = run.path / "metrics.jsonl"

    def flush(handle: int) -> None:
        if metrics.exists() and os.path.samestat(os.fstat(handle), metrics.stat()):
            on_disk["metrics"] = metrics.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", flush)
        with pytest.raises(CrashError):
            fit(run, dataset, At(step, crash))
    metrics.write_bytes(on_disk["metrics"])
    fit(run, dataset, Progress(), resume=True)

    assert result(run) == uninterrupted


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-1000]), Path.unlink])
def test_with_a_damaged_state_from_the_one_before(
    tmp_path: Path, dataset: Dataset, uninterrupted: Any, damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = create(tmp_path / "run", DROPPING)
    with pytest.raises(CrashError):
        fit(run, dataset, At(8, crash))
    damage(run.state)
    fit(run, dataset, Progress(), resume=True)

    (said,) = (text for text in caplog.messages if "state.pt" in text)
    assert said.endswith("; going on from the state before, state-before.pt") and "start the run again" not in said
    assert result(run) == uninterrupted


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")
@pytest.mark.parametrize("notice", ["SIGTERM", "SIGUSR1"])
def test_after_a_notice_of_the_scheduler(tmp_path: Path, dataset: Dataset, uninterrupted: Any, notice: str) -> None:
    number, before = signal.Signals[notice], signal.getsignal(signal.Signals[notice])
    run = create(tmp_path / "run", DROPPING)
    with pytest.raises(NoticeError) as stopped:
        fit(run, dataset, At(4, lambda: signal.raise_signal(number)), every_step=False)

    assert str(stopped.value) == (
        f"stopped by {notice} after step 4 of 12; nothing is lost: continue with `dynconv train --resume {run.path}`"
    )
    assert stopped.value.exit_code == 75 and run.summary() is None and signal.getsignal(number) is before
    fit(run, dataset, Progress(), resume=True)
    assert result(run) == uninterrupted


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")
def test_a_notice_does_not_wait_until_an_evaluation_ends(tmp_path: Path, dataset: Dataset, uninterrupted: Any) -> None:
    run, plain, ended = create(tmp_path / "run", DROPPING), learner.batched_logits, []

    def slow(*arguments: Any, **options: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        ended.append(True)
        return plain(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "batched_logits", slow)
        with pytest.raises(NoticeError, match="after step 6 of 12"):
            fit(run, dataset, Progress(), every_step=False)
    assert not ended
    fit(run, dataset, Progress(), resume=True)
    assert result(run) == uninterrupted


def test_after_ctrl_c_from_the_step_itself(tmp_path: Path, dataset: Dataset, uninterrupted: Any) -> None:
    run = create(tmp_path / "run", DROPPING)
    fit(run, dataset, At(9, lambda: signal.raise_signal(signal.SIGINT)), every_step=False)
    assert [line.epoch for line in run.metrics().epochs] == [1, 2], "the second, as far as it came"
    resumed_from = []
    fit(run, dataset, At(10, lambda: resumed_from.append(len(run.metrics().epochs))), resume=True)

    assert resumed_from == [1] and result(run) == uninterrupted


# ------------------------------------------------------------------------------------------------ one process a run


def test_a_run_is_trained_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(DynconvError) as refused, locked(tmp_path):
            pass
        assert str(refused.value) == (
            f"{tmp_path}: process {os.getpid()} on {socket.gethostname()} is training this run; wait until it ends, or "
            "end it"
        )
    assert not list(tmp_path.iterdir())
    with locked(tmp_path):
        pass


def test_a_lock_of_another_host_counts_as_long_as_it_is_touched(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))

    with pytest.raises(DynconvError, match="process 7 on elsewhere is training this run"), locked(tmp_path):
        pass
    long_ago = time.time() - STALE - 60
    os.utime(lock, (long_ago, long_ago))
    with locked(tmp_path):
        assert json.loads(lock.read_text()) == {"host": socket.gethostname(), "pid": os.getpid()}


def test_without_locks_of_the_system_the_age_of_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, and on file systems that have none."""
    monkeypatch.setattr("dynconv.artifacts.lock.fcntl", None)
    with locked(tmp_path):
        with (
            pytest.raises(DynconvError, match=r"is training this run; .* if it has died, wait 120 s"),
            locked(tmp_path),
        ):
            pass
        long_ago = time.time() - STALE - 60
        os.utime(tmp_path / "lock", (long_ago, long_ago))
        with locked(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"host": socket.gethostname(), "pid": 1})])
def test_what_a_killed_process_left_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    (tmp_path / ".state.pt.7.partial").write_text("half")

    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


# ---------------------------------------------------------------------------------------------------- real processes


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dynconv", "train", *words, "--no-report", "--checkpoint-minutes", "0.00001"]


def kill_and_compare(tmp_path: Path, times: int) -> None:
    """Kills a training at `times` random moments, each a new process, and compares its end with one left alone."""
    whole, run, moments = tmp_path / "whole", tmp_path / "run", random.Random(0)
    words = ["quick", *WORDS, "--epochs", str(times)]
    subprocess.run(command(*words, "--run", str(whole)), check=True, capture_output=True)
    state = run / "state.pt"
    for _ in range(times):
        start = ["--resume", str(run)] if is_saved(state) else [*words, "--run", str(run)]
        process = subprocess.Popen(command(*start), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        began = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == began:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed, and had not ended"
    done = subprocess.run(command("--resume", str(run)), check=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert result(RunDir.open(run)) == result(RunDir.open(whole))


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a call of POSIX systems")
def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, 2)


@pytest.mark.large
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a call of POSIX systems")
def test_kill_9_twenty_times_loses_nothing(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, 20)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGTERM elsewhere")
@pytest.mark.parametrize("notice", ["SIGTERM", "SIGUSR1"])
def test_a_notice_while_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], notice: str
) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), getattr(signal, notice))
        time.sleep(60)  # which the signal ends

    monkeypatch.setattr("dynconv.training.launch.load", load)

    assert main(["train", "quick", *WORDS, "--run", str(tmp_path / "run")]) == 75
    assert f"stopped by {notice} before the first step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_while_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr("dynconv.training.launch.load", load)

    assert main(["train", "quick", *WORDS, "--run", str(tmp_path / "run")]) == 130


def test_sigterm_ends_the_command_with_a_code_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command("quick", *WORDS, "--epochs", "1000", "--run", str(run)), stderr=subprocess.PIPE, text=True
    )
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    second = subprocess.run(command("--resume", str(run)), capture_output=True, text=True, check=False)
    process.terminate()
    _, said = process.communicate(timeout=60)

    assert second.returncode == 2 and f"process {process.pid} on" in second.stderr.splitlines()[-1]
    assert process.returncode == 75 and said.splitlines()[-1].startswith(
        "dynconv: error: stopped by SIGTERM after step"
    )
    assert "Traceback" not in said and not (run / "lock").exists()
