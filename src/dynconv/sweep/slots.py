"""The trials of a sweep, each counted once, whatever became of the workers that tried it.

A sweep of n trials has n slots. What the storage records under a number of its own is an attempt at a slot: a worker
that is killed leaves an attempt that failed, and another one continues it. Attempts are numbered by the storage, in one
order for all workers, so all workers assign them to slots alike, without a lock: those that begin a slot in their
order, and those that repeat one by the slot that they name. Of attempts at one slot that were begun at the same time
the first is valid, and a worker that began another one drops it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

REPEATS = "repeats"
"""Attribute of an attempt that repeats a slot: the slot's number."""
RELEASED = "released"
"""Attribute of an attempt whose worker gave it back."""
WORKER = "worker"
"""Attribute of an attempt that a worker has begun: who it is."""

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Slot:
    """One trial of a sweep: its number, from 0, and the attempts at it, in order."""

    number: int
    attempts: tuple[FrozenTrial, ...]

    @property
    def valid(self) -> FrozenTrial | None:
        """The attempt that counts; None if there is none, or all have failed."""
        return next((trial for trial in self.attempts if trial.state != TrialState.FAIL), None)

    @property
    def ended(self) -> bool:
        """Whether the trial is complete or pruned."""
        return self.valid is not None and self.valid.state in _ENDED

    @property
    def to_repeat(self) -> bool:
        """Whether all attempts have failed."""
        return bool(self.attempts) and self.valid is None

    @property
    def killed(self) -> int:
        """The number of attempts that ended with their worker."""
        failed = [trial.user_attrs for trial in self.attempts if trial.state == TrialState.FAIL]
        return sum(WORKER in attributes and not attributes.get(RELEASED) for attributes in failed)

    @property
    def about(self) -> dict[str, Any]:
        """What is recorded about the valid attempt."""
        return dict(self.valid.user_attrs) if self.valid else {}


def read_slots(study: Study, count: int) -> list[Slot]:
    """The slots 0 to count - 1."""
    attempts: dict[int, list[FrozenTrial]] = defaultdict(list)
    begun = 0
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get(REPEATS)
        if number is None:
            number, begun = begun, begun + 1
        attempts[number].append(trial)
    return [Slot(number, tuple(attempts[number])) for number in range(count)]


def slot_of(study: Study, number: int) -> Slot:
    """The slot of the attempt that the storage knows by `number`."""
    slots = read_slots(study, number + 1)  # no slot has a larger number than its first attempt
    return next(slot for slot in slots if any(trial.number == number for trial in slot.attempts))
