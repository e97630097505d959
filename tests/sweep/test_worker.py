"""Trials are counted once, whatever becomes of the workers. Nothing is trained here."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler

from dynconv.errors import DynconvError
from dynconv.sweep import worker
from dynconv.sweep.slots import WORKER, read_slots
from dynconv.sweep.storage import open_study
from dynconv.sweep.worker import Worker, alive

Open = Callable[[], optuna.Study]


@pytest.fixture(params=["journal", "sqlite"])
def open_(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the study as one more process would."""
    url = None if request.param == "journal" else f"sqlite:///{tmp_path / 'trials.db'}"
    return lambda: open_study(tmp_path, url, {"a": 1}, optuna.pruners.NopPruner(), maximise=True)


def of(study: optuna.Study, count: int) -> Worker:
    return Worker(study, count, lambda number: RandomSampler(seed=number))


def states(study: optuna.Study, count: int) -> list[str]:
    return [slot.valid.state.name if slot.valid else "-" for slot in read_slots(study, count)]


def test_workers_side_by_side_do_every_trial_once(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POLL", 0.01)
    done: list[int] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            study = open_()
            for claim in of(study, 12).claims():
                claim.trial.suggest_float("x", 0, 1)
                done.append(claim.slot)
                study.tell(claim.trial, 1.0)
        except BaseException as error:
            failed.append(error)

    monkeypatch.setattr(Worker, "_is_lost", lambda self, trial: False)  # threads share the number of their process
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert sorted(done) == list(range(12)) and states(open_(), 12) == ["COMPLETE"] * 12


def test_a_worker_elsewhere_that_is_silent_for_long_is_lost_and_one_that_beats_is_not(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_place", lambda: "elsewhere")
    away = open_()
    silent = next(of(away, 2).claims())
    x = silent.trial.suggest_float("x", 0, 1)
    beating = of(away, 2)._claim()
    assert beating is not None
    monkeypatch.undo()
    now = [1000.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker, "BEAT", 0.001)
    here = of(open_(), 2)

    assert [slot.valid.state.name for slot in here.look_after() if slot.valid] == ["RUNNING", "RUNNING"]
    now[0] += worker.GRACE + 1
    beat = threading.Event()
    plain = beating.trial.set_user_attr
    monkeypatch.setattr(beating.trial, "set_user_attr", lambda *pair: (plain(*pair), beat.set()))
    with alive(beating.trial):
        assert beat.wait(30)
    here.look_after()

    assert states(open_(), 2) == ["WAITING", "RUNNING"]
    again = here._claim()
    assert again is not None and (again.slot, again.attempt) == (0, 1) and again.trial.suggest_float("x", 0, 1) == x
    assert not of(away, 2).holds(silent)


def test_a_process_that_has_ended_is_lost_at_once(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_()
    first = of(study, 1)
    claim = next(first.claims())
    monkeypatch.setattr(worker.os, "getpid", lambda: os.getppid())  # the claim looks like another living process's

    assert states(study, 1) == ["RUNNING"] and of(study, 1).look_after()[0].valid.state.name == "RUNNING"  # type: ignore[union-attr]
    monkeypatch.setattr(worker, "_runs", lambda process: False)
    of(study, 1).look_after()

    assert states(study, 1) == ["WAITING"] and claim.trial.user_attrs[WORKER][1] != worker.os.getpid()


def test_two_workers_that_repeat_the_same_trial_count_it_once(open_: Open) -> None:
    study = open_()
    lost = of(study, 1)
    claim = next(lost.claims())
    lost.release(claim)
    (slot,) = read_slots(study, 1)
    for _ in range(2):  # both have seen that it failed
        of(study, 1)._repeat(slot)

    done = []
    for again in of(open_(), 1).claims():
        done.append((again.slot, again.attempt))
        study.tell(again.trial.number, 1.0)

    assert done == [(0, 1)] and states(study, 1) == ["COMPLETE"]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text("{broken\n{}\n")

    with pytest.raises(DynconvError, match=r"journal\.log: damaged"):
        open_study(tmp_path, None, {}, optuna.pruners.NopPruner(), maximise=True)
