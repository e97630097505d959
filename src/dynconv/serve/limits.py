"""How much the server takes on at once, and from each request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException

RETRY_SECONDS = 1
"""What an overloaded server asks its clients to wait."""


@dataclass(frozen=True)
class Limits:
    """The bounds that `dynconv serve --help` names.

    Attributes:
        max_batch: images in a batch.
        max_delay: seconds that an image waits for others.
        queue: requests under way.
        body: bytes of a request's body.
        images: of a request.
        pixels: of an image.
        seconds: for a request to arrive, and again for it to be answered.
    """

    max_batch: int = 64
    max_delay: float = 0.005
    queue: int = 128
    body: int = 8_000_000
    images: int = 16
    pixels: int = 25_000_000
    seconds: int = 30


class Gate:
    """Counts the requests under way, and turns away what is more than `size`. Of one event loop: no lock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.under_way = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises HTTPException 503 where it is full."""
        if self.under_way >= self.size:
            raise overloaded("the queue is full")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1


def overloaded(why: str) -> HTTPException:
    """What to raise where there is more to do than can be done."""
    return HTTPException(503, f"{why}; try again later", headers={"Retry-After": str(RETRY_SECONDS)})
