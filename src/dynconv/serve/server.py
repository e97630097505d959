"""The server process: its socket, key and signals."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from dynconv.errors import DynconvError

try:
    import python_multipart  # noqa: F401, needed for forms; without it, FastAPI fails only at the first form
    import uvicorn
    from starlette.types import ASGIApp

    from dynconv.serve.app import create_app
    from dynconv.serve.connection import Connection
except ModuleNotFoundError as error:
    raise DynconvError(f"serve: the package {error.name} is missing; pip install 'dynconv[serve]'") from error
from dynconv.serve.limits import Limits
from dynconv.serve.model import load

logger = logging.getLogger(__name__)

KEY_VARIABLE = "DYNCONV_API_KEY"
_IDLE_SECONDS = 10
"""Seconds after which a connection without a request in progress is closed."""
_LOOPBACK = ("127.", "::1")


def serve(
    model: Path,
    host: str,
    port: int,
    data: str | None,
    limits: Limits,
    *,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM, then finishes the accepted requests and returns.

    Args:
        port: port to listen on; 0 for any free port.
        ready: called with the URL once the server answers requests.

    Raises:
        DynconvError: no such model or host, the port is in use, or the key cannot be sent in a header.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise DynconvError(f"{KEY_VARIABLE}: must consist of ASCII letters, digits and punctuation, without spaces")
    # Binds before loading the network, so that a port in use is reported at once.
    with _bind(host, port) as listener:
        address, number = listener.getsockname()[:2]
        if key is None and not address.startswith(_LOOPBACK):
            logger.warning("anyone who can reach %s can use this server; set a key with %s", address, KEY_VARIABLE)
        app, metrics = create_app(load(model, data), limits, key)
        url = f"http://{f'[{address}]' if ':' in address else address}:{number}"
        # uvicorn catches the signals and passes them on to these handlers once it has finished.
        for sent in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sent, _ended)
        _Server(configure(app, limits), lambda: ready(url)).run([listener])
    logger.info("stopped; %d requests were answered", metrics.answered)


def configure(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """The configuration with which uvicorn serves `app`."""
    return uvicorn.Config(
        app, loop="asyncio", http=Connection, ws="none", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=min(_IDLE_SECONDS, limits.seconds), timeout_graceful_shutdown=2 * limits.seconds + 5,
    )  # fmt: skip


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise DynconvError(f"host: {host!r} is not an address of this machine ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise DynconvError(f"port {port} of {host}: {error.strerror}; choose another --port, or --host") from error
    return listener


def _ended(_: int, __: FrameType | None) -> None:
    pass
