"""`dynconv serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse


class ServeArguments(Arguments):
    """The page is at /, the interface for programs is described at /docs. The environment variable
    DYNCONV_API_KEY sets a key that clients must send. Ctrl-C finishes the requests that were accepted.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="[RUN]")] = Path("standard")
    """Run directory, weights file, or standard: the weights that come with the package, trained on CIFAR-10."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is reached from this machine only, 0.0.0.0 from everywhere."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen at; 0 for any that is free."""
    data: str | None = None
    """Where the class means of the routing come from. Default: the data that it was trained on, where it is to hand."""
    max_batch: Annotated[int, Field(ge=1)] = 64
    """Images that the network computes at once, at most."""
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """How long an image waits for others to join its batch, at most."""
    queue: Annotated[int, Field(ge=1)] = 128
    """Requests under way, at most; more are answered 503."""
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 8.0
    """Size of a request's body, at most."""
    max_images: Annotated[int, Field(ge=1)] = 16
    """Images in a request, at most."""
    max_megapixels: Annotated[float, Field(gt=0, le=89)] = 25.0
    """Size of an image, at most."""
    timeout: Annotated[int, Field(ge=1)] = 30
    """Seconds for a request to arrive, and again for it to be answered."""


def run(words: Sequence[str]) -> int:
    """Prints the URL once requests are answered; returns when it is told to stop and has finished them."""
    arguments = parse(ServeArguments, words, "serve")
    show_messages()

    from dynconv.serve.limits import Limits
    from dynconv.serve.server import serve  # says which packages are missing

    limits = Limits(
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay_ms / 1000,
        queue=arguments.queue,
        body=int(arguments.max_body_mb * 1_000_000),
        images=arguments.max_images,
        pixels=int(arguments.max_megapixels * 1_000_000),
        seconds=arguments.timeout,
    )
    serve(
        arguments.run, arguments.host, arguments.port, arguments.data, limits,
        ready=lambda url: print(url, flush=True),
    )  # fmt: skip
    return 0
