"""How many requests a client may send, one after another."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable

from fastapi import HTTPException

_BURST_SECONDS = 2.0
"""A client that has paused may send this many seconds' worth of requests at once."""
_REMEMBERED = 10_000
"""Number of clients above which those that have paused long enough are forgotten."""


class Rate:
    """A token bucket for each client: `per_second` requests on average; 0 for any number.

    A client is an IPv4 address, or an IPv6 network of 64 bits, which is what one customer of a provider gets.
    Used in one event loop only, so it needs no lock.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> tokens, and when it had them

    def admit(self, address: str) -> None:
        """Counts a request from `address`. Raises HTTPException 429, with when to try again, if it is one too many."""
        if not self._per_second:
            return
        client, now = _client(address), self._clock()
        tokens, then = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        if tokens < 1:
            wait = math.ceil((1 - tokens) / self._per_second)
            raise HTTPException(
                429, f"more than {self._per_second:g} requests per second; try again later", {"Retry-After": str(wait)}
            )
        self._buckets[client] = (tokens - 1, now)
        if len(self._buckets) > _REMEMBERED:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Drops the clients whose buckets are full again, or else everyone: memory is bounded, whoever sends."""
        full = self._burst / self._per_second
        self._buckets = {client: bucket for client, bucket in self._buckets.items() if now - bucket[1] < full}
        if len(self._buckets) > _REMEMBERED:
            self._buckets.clear()


def _client(address: str) -> str:
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
