"""The limits of the server, overall and for each request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits that `dynconv serve --help` describes.

    Attributes:
        max_batch: maximum number of images in a batch.
        max_delay: maximum time in seconds that an image waits for others to join its batch.
        queue: maximum number of requests in progress.
        body: maximum size of a request's body in bytes.
        images: maximum number of images in a request.
        pixels: maximum number of pixels in an image.
        seconds: time allowed for a request to arrive, and again for it to be answered.
        rate: maximum number of requests per second of one client, on average; 0 for any number.
    """

    max_batch: int = 64
    max_delay: float = 0.005
    queue: int = 128
    body: int = 8_000_000
    images: int = 16
    pixels: int = 25_000_000
    seconds: int = 30
    rate: float = 0.0
