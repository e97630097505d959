"""`dynconv serve`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator
from tyro.conf import Positional

from dynconv.artifacts.found_weights import DEFAULT
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.serve import model
from dynconv.serve.model import Backend


class ServeArguments(Arguments):
    """The web page is at /, the description of the API at /docs. The environment variable DYNCONV_API_KEY_SHA256 holds
    the digest of a key that clients must send, DYNCONV_API_KEY the key itself. SIGHUP loads the weights again. Ctrl-C
    stops the server after it has answered all accepted requests.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="[RUN]")] = Path(DEFAULT)
    """Run directory, weights file, or accurate or standard for packaged weights, trained on CIFAR-10."""
    host: str = "127.0.0.1"
    """Address to listen on. The default serves this machine only; 0.0.0.0 serves all networks of the machine."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 for any free port."""
    data: str | None = None
    """Data set for the mean routing weights of each class. Default: the data that the network was trained on, if found
    here."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Number of processes, which share one copy of the weights and divide the cores. More than one needs Linux."""
    backend: Backend = "torch"
    """What computes the classes: torch, or onnxruntime, for which the network is exported at the start."""
    log: Literal["text", "json"] = "text"
    """Messages for people, or JSON lines, of which each answer gets one too."""
    max_batch: Annotated[int, Field(ge=1)] = 64
    """Maximum number of images in one batch."""
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Maximum time in milliseconds that an image waits for others to join its batch."""
    queue: Annotated[int, Field(ge=1)] = 128
    """Maximum number of requests in progress; further ones get status 503."""
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 8.0
    """Maximum size of a request's body, in megabytes."""
    max_images: Annotated[int, Field(ge=1)] = 16
    """Maximum number of images in a request."""
    max_megapixels: Annotated[float, Field(gt=0, le=89)] = 25.0
    """Maximum size of an image, in megapixels."""
    timeout: Annotated[int, Field(ge=1)] = 30
    """Seconds allowed for a request to arrive, and again for its answer."""
    rate: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Maximum requests per second of one client, on average; further ones get status 429. 0: unlimited."""

    @model_validator(mode="after")
    def _one_onnxruntime(self) -> Self:
        if self.workers > 1 and self.backend == "onnxruntime":
            raise ValueError("workers: onnxruntime cannot share its weights; it uses all cores in one process")
        return self


def run(words: Sequence[str]) -> int:
    """Prints the URL once the server answers requests; returns when it was told to stop and has finished them."""
    arguments = parse(ServeArguments, words, "serve")
    show_messages()

    from dynconv.serve import server  # reports which packages are missing
    from dynconv.serve.limits import Limits
    from dynconv.serve.logs import log_as_json

    if arguments.log == "json":
        log_as_json()
    limits = Limits(
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay_ms / 1000,
        queue=arguments.queue,
        body=int(arguments.max_body_mb * 1_000_000),
        images=arguments.max_images,
        pixels=int(arguments.max_megapixels * 1_000_000),
        seconds=arguments.timeout,
        rate=arguments.rate,
    )
    server.serve(
        partial(model.load, arguments.run, arguments.data, arguments.backend, arguments.max_batch),
        arguments.host, arguments.port, limits, arguments.workers,
        ready=lambda url: print(url, flush=True),
    )  # fmt: skip
    return 0
