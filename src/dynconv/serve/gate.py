"""The requests in progress: their number, and those that are turned away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

_RETRY = {"Retry-After": "1"}
"""Seconds that an overloaded server asks its clients to wait."""
_LEAST_SHARE = 8
"""Requests that each client may have arriving at a time, however short the queue is."""


class Gate:
    """Counts requests in progress and turns away those above `size`. Lives in one event loop, so it needs no lock.

    One client cannot fill it with bodies that never arrive whole: `arriving` allows each at most half of it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_progress = 0
        self._arriving: Counter[str] = Counter()
        self._share = max(size // 2, _LEAST_SHARE)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises HTTPException 503 if it is full."""
        if self.in_progress >= self.size:
            raise overloaded("the queue is full")
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1

    @contextmanager
    def arriving(self, client: str) -> Iterator[None]:
        """While a body is received. Raises HTTPException 429 if too many of the client's are."""
        if self._arriving[client] >= self._share:
            raise HTTPException(
                429, f"{self._share} requests of yours are still arriving; finish some first", headers=_RETRY
            )
        self._arriving[client] += 1
        try:
            yield
        finally:
            self._arriving[client] -= 1
            if not self._arriving[client]:
                del self._arriving[client]


def overloaded(why: str) -> HTTPException:
    """What to raise when there is more to do than can be done."""
    return HTTPException(503, f"{why}; try again later", headers=_RETRY)
