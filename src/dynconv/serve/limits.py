"""How much the server takes on at once, from each client and in each request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds that `dynconv serve --help` names.

    Attributes:
        max_batch: images in a batch.
        max_delay: seconds that an image waits for others to join its batch.
        queue: requests in progress.
        body: bytes of a request's body.
        images: in a request.
        pixels: in an image.
        seconds: for a request to arrive, and again for it to be answered.
    """

    max_batch: int = 64
    max_delay: float = 0.005
    queue: int = 128
    body: int = 8_000_000
    images: int = 16
    pixels: int = 25_000_000
    seconds: int = 30
