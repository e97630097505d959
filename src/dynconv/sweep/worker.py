"""One of the processes that work on a sweep: takes trials, says that it is alive, and finds those that are not."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from dynconv.sweep.slots import RELEASED, REPEATS, WORKER, Slot, read_slots, slot_of

BEAT = 15.0
"""Seconds between two signs of life of a worker."""
GRACE = 120.0
"""Seconds without a sign of life after which a worker on another machine counts as lost."""
POLL = 2.0
"""Seconds between two looks at trials that other workers are at."""
MOST_KILLED = 3
"""Attempts at a trial that end with their worker before it is given up."""
PROBLEM = "problem"
"""Attribute of a trial that cannot be trained: why."""

_BEAT = "beat"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has taken: the number of its slot, and of earlier attempts at it."""

    trial: Trial
    slot: int
    attempt: int


class Worker:
    """Takes the trials of a study that has `count` of them, one after another.

    Args:
        sampler: of the trial with a number.
    """

    def __init__(self, study: optuna.Study, count: int, sampler: Callable[[int], BaseSampler]) -> None:
        self._study, self._count, self._sampler = study, count, sampler
        self._identity = [_place(), os.getpid(), uuid.uuid4().hex]
        self._seen: dict[
            int, tuple[object, float]
        ] = {}  # attempt -> its last sign of life, and when that was first seen

    def claims(self) -> Iterator[Claim]:
        """Trials to do, until all are done, by this worker or others. Waits for those that others are at."""
        said = False
        while not all(slot.ended for slot in self.look_after()):
            claim = self._claim()
            if claim:
                yield claim
                continue
            if not said:
                logger.info("waiting for the trials that other workers are at")
                said = True
            time.sleep(POLL)

    def look_after(self) -> list[Slot]:
        """Has trials whose worker is lost repeated; returns all slots."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_lost(trial):
                self._fail(trial.number)
        for slot in read_slots(self._study, self._count):
            if slot.to_repeat:
                self._repeat(slot)
        return read_slots(self._study, self._count)

    def _repeat(self, slot: Slot) -> None:
        """Queues another attempt at a slot, with the values and what is known of the last one."""
        drawn = next((trial for trial in reversed(slot.attempts) if trial.params), slot.attempts[-1])
        dropped = (WORKER, RELEASED, _BEAT)
        about = {name: value for name, value in drawn.user_attrs.items() if name not in dropped}
        about[REPEATS] = slot.number
        if slot.killed < MOST_KILLED:
            self._study.enqueue_trial(drawn.params, about)
            return
        about[PROBLEM] = f"its process was killed {slot.killed} times"
        params, distributions = drawn.params, drawn.distributions
        self._study.add_trial(
            optuna.create_trial(state=TrialState.PRUNED, params=params, distributions=distributions, user_attrs=about)
        )

    def _claim(self) -> Claim | None:
        slots = read_slots(self._study, self._count)
        waiting = any(slot.valid and slot.valid.state == TrialState.WAITING for slot in slots)
        if not waiting and all(slot.attempts for slot in slots):
            return None
        trial = self._study.ask()
        try:
            slot = slot_of(self._study, trial.number)
            if slot.number >= self._count or slot.valid is None or slot.valid.number != trial.number:
                self._fail(trial.number)  # another worker was faster
                return None
            trial.set_user_attr(WORKER, self._identity)
        except BaseException:  # such as Ctrl-C: no other worker could tell that nobody is at it
            self._fail(trial.number)
            raise
        self._study.sampler = self._sampler(slot.number)
        return Claim(trial, slot.number, [each.number for each in slot.attempts].index(trial.number))

    def release(self, claim: Claim) -> None:
        """Gives a trial back, for any worker to continue."""
        with suppress(UpdateFinishedTrialError):
            claim.trial.set_user_attr(RELEASED, True)
        self._fail(claim.trial.number)

    def holds(self, claim: Claim) -> bool:
        """Whether the trial is still this worker's; another one has taken it if this one was silent for long."""
        return self._study.get_trials(deepcopy=False)[claim.trial.number].state == TrialState.RUNNING

    def _fail(self, number: int) -> None:
        with suppress(UpdateFinishedTrialError, ValueError):  # another worker was faster
            self._study.tell(number, state=TrialState.FAIL)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """A process of this machine is lost if it has ended, another one if it has been silent for long.

        Compares no clocks: those of two machines may differ.
        """
        place, process, token = trial.user_attrs.get(WORKER, ("", 0, ""))
        if place == self._identity[0]:
            return process == os.getpid() or not _runs(process)  # this worker is at no trial when it looks
        beat, now = (token, trial.user_attrs.get(_BEAT)), time.monotonic()
        if self._seen.get(trial.number, (None, now))[0] != beat:
            self._seen[trial.number] = beat, now
        return now - self._seen[trial.number][1] > GRACE


@contextmanager
def alive(trial: Trial) -> Iterator[None]:
    """Gives signs of life for a trial meanwhile."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            try:
                trial.set_user_attr(_BEAT, count)
            except Exception as error:  # a storage that is gone for a moment; what ends the trial is its next report
                logger.debug("no sign of life: %s", error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _place() -> str:
    """The machine, or the container, within which a process is known by its number."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
