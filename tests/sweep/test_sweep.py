"""Whole sweeps of a tiny network on a few drawn images."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps import FIELDS, found, sweep, words

from dynconv.artifacts.records import EpochLine
from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.sweep import trial, worker
from dynconv.sweep.trial import Bench
from dynconv.training import timing

LR = {"optim.lr": {"low": 0.05, "high": 0.4, "log": True}}
Write = Callable[..., Path]


def trials(file: Path) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = found(file)["trials"]
    return every


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_it_finds_the_best_by_the_holdout_and_records_every_trial(
    write: Write, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(LR | {"model.experts": {"choices": [1, 2]}}, trials=3, seeds=2)

    assert sweep(file, images) == 0

    lines, folder = said(capsys), file.parent / "sweep"
    assert lines[-1] == str(folder) and max(map(len, lines[:-4])) <= 80
    best = max(trials(file), key=lambda each: float(each["score"]))
    assert lines[3].split()[:2] == [str(best["trial"]), f"{best['score']:.2%}"]
    assert "3 trials: 3 complete" in lines
    for each in trials(file):
        runs = [RunDir.open(folder / name) for name in each["runs"]]
        assert [run.path.name for run in runs] == [f"trial-{each['trial']:04d}-seed{seed}" for seed in (0, 1)]
        scores = [run.metrics().epochs[-1].validation_accuracy for run in runs]
        assert scores == each["scores"] and each["score"] == pytest.approx(sum(map(float, scores)) / 2)  # type: ignore[arg-type]
        assert {run.config.seed for run in runs} == {0, 1} and all(run.config.holdout == 100 for run in runs)
        assert all(run.config.model.experts == tuple(each["values"]["model.experts"]) for run in runs)
        kept = [run.weights.exists() for run in runs]
        assert kept == [each == best] * 2 and not any(list(run.path.glob("state*")) for run in runs)
    first = trials(file)[0]
    assert first["values"] == {"optim.lr": 0.17, "model.experts": [2]}, "the first trial is the preset itself"
    assert first["training_flop"] > 0 and first["train_seconds"] > 0
    rows = list(csv.DictReader((folder / "sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row["validation_accuracy"]) for row in rows] == [each["score"] for each in trials(file)]
    config = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    assert config["optim"]["lr"] == best["values"]["optim.lr"] and config["holdout"] == 0 and config["tta"] is True
    assert main(["describe", "--config", str(folder / "best.yaml")]) == 0


def test_the_page_is_complete_in_itself(write: Write, images: Path) -> None:
    search = LR | {"optim.router_lr": {"low": 0.001, "high": 0.1, "log": True}, "model.gate": {"choices": ["softmax"]}}
    file = write(search, trials=9, fields={**FIELDS, "epochs": 1})

    assert sweep(file, images) == 0

    folder = file.parent / "sweep" / "report"
    page = (folder / "report.html").read_text(encoding="utf-8")
    drawn = {"history", "importance", "parallel", "cost"}
    assert set(re.findall(r'<figure id="([^"]+)"', page)) == drawn == {path.stem for path in folder.glob("*.png")}
    assert "<script" not in page and "<link" not in page and "{{" not in page
    references = re.findall(r'(?:src|xlink:href|[^:]href)="([^"]*)"', page)
    assert references and all(each.startswith(("#", "data:image/")) for each in references)
    anchors = set(re.findall(r'href="#([\w-]+section)"', page))
    assert anchors and all(f'id="{anchor}"' in page for anchor in anchors)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for each in trials(file):
        assert f"{each['score']:.2%} complete" in text
    assert "test accuracy" not in text and "base configuration" in text


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_is_continued_and_counted_once(
    write: Write, images: Path, tmp_path: Path
) -> None:
    """The sweep ends as if nothing had happened."""
    file = write(LR, trials=3, sampler="random", fields={**FIELDS, "epochs": 8})
    more = ["--storage", f"sqlite:///{tmp_path / 'trials.db'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dynconv", *words(file, images), *more], stderr=subprocess.PIPE, text=True
    )
    metrics, deadline = file.parent / "sweep/trial-0001-seed0/metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count('"epoch"') > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    lock = metrics.with_name("lock")  # as of another host, which may touch it for a while
    lock.write_text('{"host": "elsewhere", "pid": 7}')

    assert sweep(file, images, *more) == 0

    assert [each["state"] for each in trials(file)] == ["complete"] * 3
    assert [each["runs"] for each in trials(file)][1] == ["trial-0001-seed0-attempt2"]
    runs = sorted(path.name for path in (file.parent / "sweep").glob("trial-*"))
    assert runs == ["trial-0000-seed0", "trial-0001-seed0-attempt2", "trial-0002-seed0"]
    continued = [line.step for line in RunDir.open(file.parent / "sweep" / runs[1]).metrics().steps]
    assert continued == list(range(1, 81)), "every step once"
    interrupted = [(each["values"], each["score"]) for each in trials(file)]
    (file.parent / "sweep").rename(file.parent / "killed")
    assert sweep(file, images) == 0
    assert [(each["values"], each["score"]) for each in trials(file)] == interrupted


def test_ctrl_c_keeps_what_is_done_and_the_same_command_continues(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(LR, trials=3)
    judge = trial._Judge.__call__

    def interrupting(self: Any, line: EpochLine) -> bool:
        if self._trial.number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return judge(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(trial._Judge, "__call__", interrupting)
        assert sweep(file, images) == 130

    lines = said(capsys)
    assert [each["state"] for each in trials(file)] == ["complete", "waiting", "waiting"]
    assert "3 trials: 1 complete, 2 waiting" in lines and lines[-1] == str(file.parent / "sweep")
    assert not (file.parent / "sweep/report").exists()
    first = trials(file)[0]

    assert sweep(file, images) == 0

    assert [each["state"] for each in trials(file)] == ["complete"] * 3 and trials(file)[0] == first
    steps = [line.step for line in RunDir.open(file.parent / "sweep/trial-0001-seed0-attempt2").metrics().steps]
    assert steps == list(range(1, 21))


def test_more_trials_can_be_added_and_nothing_else_changed(
    write: Write, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(write(LR, trials=1), images) == 0
    file = write(LR, trials=2)
    assert sweep(file, images) == 0
    assert len(trials(file)) == 2
    capsys.readouterr()

    assert sweep(write(LR, trials=2, seeds=2), images) == 2
    assert "has seeds 1, not 2; restore the file, or choose another --output" in capsys.readouterr().err
    (file.parent / "sweep/journal.log").unlink()
    assert sweep(file, images) == 2
    assert "holds the trials of another sweep" in capsys.readouterr().err


def test_a_worker_that_counted_as_lost_drops_its_trial(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was silent for long, and another one has taken the trial: to go on would count it twice."""
    file, judge, taken = write(LR, trials=2), trial._Judge.__call__, []

    def take(self: Any, line: EpochLine) -> bool:
        if not taken:
            taken.append(self._path.rename(self._path.with_name("taken")))
            self._trial.study.tell(self._trial.number, state=trial.TrialState.FAIL)
        return judge(self, line)

    monkeypatch.setattr(trial._Judge, "__call__", take)

    assert sweep(file, images) == 0

    assert "trial 0: another worker has taken it over" in caplog.messages
    assert [each["state"] for each in trials(file)] == ["complete"] * 2
    assert trials(file)[0]["runs"] == ["trial-0000-seed0-attempt2"]


def test_a_trial_that_kills_its_process_each_time_is_given_up(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    file, run = write(LR, trials=2), Bench._run

    def deadly(self: Bench, claim: worker.Claim) -> None:
        if claim.slot == 0:
            raise KilledError
        run(self, claim)

    monkeypatch.setattr(Bench, "_run", deadly)
    for _ in range(worker.MOST_KILLED):
        with pytest.raises(KilledError):
            sweep(file, images)

    assert sweep(file, images) == 0
    assert [each["state"] for each in trials(file)] == ["failed", "complete"]
    assert trials(file)[0]["note"] == "its process was killed 3 times"


def test_hopeless_trials_are_pruned(write: Write, images: Path) -> None:
    """The last of the grid learns nothing, so after its first epoch it is worse than half of the others."""
    fields = {**FIELDS, "epochs": 3, "optim": {"name": "sgd"}}
    search = {"optim.lr": {"choices": [0.05, 0.06, 0.07, 0.08, 0.09, 1e-9]}}
    file = write(search, sampler="grid", pruner="median", metric="validation_loss", fields=fields)

    assert sweep(file, images) == 0

    *others, last = trials(file)
    assert (last["state"], last["note"]) == ("pruned", "after epoch 1 of 3")
    assert RunDir.open(file.parent / "sweep" / last["runs"][0]).summary().stopped_by == "pruned"  # type: ignore[union-attr]
    assert last["training_flop"] == pytest.approx(others[0]["training_flop"] / 3)
    assert [each["state"] for each in others].count("complete") == 5 and last["score"] > others[0]["score"]


def test_what_does_not_fit_together_or_diverges_counts_as_a_trial(write: Write, images: Path) -> None:
    model = {**FIELDS["model"], "norm": "none"}
    search = {"model.pools": {"choices": [[4, 2], [4, 2, 2], [4, 8]]}, "optim.lr": {"choices": [0.1, 1e30]}}
    file = write(search, sampler="grid", fields={**FIELDS, "model": model, "optim": {"name": "sgd"}})

    assert sweep(file, images) == 0

    assert [each["state"] for each in trials(file)] == ["complete", "diverged", *["failed"] * 4]
    notes = [each["note"] for each in trials(file)]
    assert notes[2].startswith("model.pools: has 3 entries, and model.widths has 2") and "no pixels left" in notes[4]


def test_a_network_that_does_not_fit_into_memory_counts_as_a_trial(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynconv.training.memory.available_memory", lambda: 10**11)  # not every system says it
    file = write({"model.widths": {"choices": [[8, 8], [65536, 65536]]}}, sampler="grid")

    assert sweep(file, images) == 0

    assert [each["state"] for each in trials(file)] == ["complete", "failed"]
    assert trials(file)[1]["note"].startswith("training this network takes at least")


def test_a_full_disk_ends_it_and_the_trial_is_continued(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(LR, trials=1)

    def full(self: Any, line: EpochLine) -> bool:
        raise DynconvError("metrics.jsonl: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(trial._Judge, "__call__", full)
        assert sweep(file, images) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("(No space left on device)")

    assert sweep(file, images) == 0 and trials(file)[0]["state"] == "complete"


def test_equal_time_gives_a_cheaper_network_more_epochs(
    write: Write, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that goes by the width: what the steps really take depends on what else the machine does."""
    monkeypatch.setattr(
        timing, "_side_by_side", lambda pair, size: [60 + float(sum(each._config.model.widths)) for each in pair]
    )
    fields = {**FIELDS, "model": {"widths": [64, 64], "pools": [2, 2]}}
    search = {"model.widths": {"choices": [[64, 64], [8, 8], [160, 160]]}}
    file = write(search, sampler="grid", equal_time=True, fields=fields)

    assert sweep(file, images) == 0

    same, cheaper, dearer = trials(file)
    assert (same["epochs"], same["relative_time"]) == (2, 1.0)
    assert cheaper["epochs"] == 5 and dearer["epochs"] == 1
    assert len(RunDir.open(file.parent / "sweep" / cheaper["runs"][0]).metrics().epochs) == cheaper["epochs"]
    assert cheaper["training_flop"] < same["training_flop"] * cheaper["epochs"] / 2


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("nonsense", "--storage: not the URL of a database, as in postgresql://user@host/name"),
        ("sqlite:////no/such/folder/x.db", "storage sqlite:////no/such/folder/x.db: cannot be used ("),
        ("postgresql+nodriver://me:secret@host/x", "storage postgresql+nodriver://me:***@host/x: cannot be used ("),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(
    write: Write, images: Path, capsys: pytest.CaptureFixture[str], url: str, answer: str
) -> None:
    assert sweep(write(LR), images, "--storage", url) == 2

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"dynconv: error: {answer}") and "secret" not in last


def test_without_optuna_one_line_says_what_to_install(write: Write, images: Path) -> None:
    code = "import sys; sys.modules['optuna'] = None; from dynconv.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words(write(LR), images)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)

    assert process.returncode == 2
    assert process.stderr == "dynconv: error: sweep: the package optuna is missing; pip install 'dynconv[sweep]'\n"
