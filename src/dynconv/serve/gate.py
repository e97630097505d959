"""Counts the requests in progress and rejects those above the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import HTTPException

_RETRY = {"Retry-After": "1"}
"""Tells clients of an overloaded server how many seconds to wait."""
_LEAST_SHARE = 8
"""Number of arriving requests that each client may always have, however short the queue is."""


class Gate:
    """Counts requests in progress and rejects those above `size`. Used in one event loop only, so it needs no lock.

    `arriving` allows each client at most half of it, so that no client can fill it with bodies that never arrive.
    `changed` is called with the number of requests in progress whenever it changes.
    """

    def __init__(self, size: int, changed: Callable[[int], None]) -> None:
        self.size = size
        self.in_progress = 0
        self._changed = changed
        self._arriving: Counter[str] = Counter()
        self._share = max(size // 2, _LEAST_SHARE)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts a request while it is in progress. Raises HTTPException 503 if the gate is full."""
        if self.in_progress >= self.size:
            raise overloaded("the queue is full")
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self.in_progress += more
        self._changed(self.in_progress)

    @contextmanager
    def arriving(self, client: str) -> Iterator[None]:
        """Counts a client's request while its body arrives. Raises HTTPException 429 if too many are arriving."""
        if self._arriving[client] >= self._share:
            raise HTTPException(
                429, f"{self._share} of your requests are still arriving; finish some first", headers=_RETRY
            )
        self._arriving[client] += 1
        try:
            yield
        finally:
            self._arriving[client] -= 1
            if not self._arriving[client]:
                del self._arriving[client]


def overloaded(why: str) -> HTTPException:
    """The exception for a server that cannot handle another request now."""
    return HTTPException(503, f"{why}; try again later", headers=_RETRY)
