"""Several methods timed in turns, so that whatever disturbs the machine disturbs them all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

HOPELESS = 5.0
"""How many times slower than the best a method must be for it not to be timed again."""


def medians(methods: Mapping[Name, Callable[[], float]], rounds: int, hopeless: float = math.inf) -> dict[Name, float]:
    """The median seconds of each method, over rounds in which they take turns. Each round begins with another one.

    Args:
        methods: each does its work once and returns the seconds that it took.
        rounds: number of rounds, at least 1; one more, before them, warms up.
        hopeless: a method that in the first round is so many times slower than the best is left out of the others.
    """
    names = list(methods)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            best = min(min(each) for each in taken.values() if each) if turn > 1 else 0.0
            if turn > 1 and min(taken[name]) > hopeless * best:
                continue
            seconds = methods[name]()
            if turn:
                taken[name].append(seconds)
    return {name: statistics.median(each) for name, each in taken.items()}
