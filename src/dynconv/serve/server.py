"""The server: its socket, its signals, and its process or processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from dynconv.errors import DynconvError

try:
    import python_multipart  # noqa: F401, needed for forms; without it, FastAPI fails only at the first form
    import uvicorn
    from starlette.types import ASGIApp

    from dynconv.serve import metrics
    from dynconv.serve.app import create_app
    from dynconv.serve.connection import Connection
    from dynconv.serve.workers import need_fork, run_workers
except ModuleNotFoundError as error:
    raise DynconvError(f"serve: the package {error.name} is missing; pip install 'dynconv[serve]'") from error
from dynconv.serve.current import Current
from dynconv.serve.keys import DIGESTS_VARIABLE, Keys
from dynconv.serve.limits import Limits
from dynconv.serve.model import Served

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 10
"""Seconds after which a connection without a request in progress is closed."""
_LOOPBACK = ("127.", "::1")


def serve(
    load: Callable[[], Served],
    host: str,
    port: int,
    limits: Limits,
    workers: int,
    *,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM, then finishes the accepted requests and returns.

    SIGHUP loads the network again, unless standard input is a terminal, whose hang-up it then means.

    Args:
        load: loads the network.
        port: port to listen on; 0 for any free port.
        workers: number of processes; more than one share the weights.
        ready: called with the URL once the server answers requests.

    Raises:
        DynconvError: no such model or host, the port is in use, or the keys in the environment are none.
    """
    keys = Keys.from_environment(os.environ)
    # Binds before loading the network, so that a port in use is reported at once.
    with _bind(host, port) as listener, contextlib.ExitStack() as stack:
        address, number = listener.getsockname()[:2]
        if not keys and not address.startswith(_LOOPBACK):
            logger.warning("anyone who can reach %s can use this server; set a key with %s", address, DIGESTS_VARIABLE)
        url = f"http://{f'[{address}]' if ':' in address else address}:{number}"
        if workers == 1:
            answered = _run(load(), listener, limits, keys, lambda: ready(url), load=load)
            logger.info("stopped; %d requests were answered", answered)
            return
        need_fork()
        metrics.share(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dynconv-metrics-"))))

        def work(served: Served, started: Callable[[], None], orphaned: int) -> None:
            _run(served, listener, limits, keys, started, orphaned=orphaned)

        run_workers(workers, load, work, lambda: ready(url))
        logger.info("stopped")


def _run(
    served: Served,
    listener: socket.socket,
    limits: Limits,
    keys: Keys,
    started: Callable[[], None],
    *,
    load: Callable[[], Served] | None = None,
    orphaned: int | None = None,
) -> int:
    """Answers requests in this process until it is told to stop; returns how many it answered."""
    current = Current(served)
    app, counted = create_app(current, limits, keys)
    # uvicorn catches the signals and passes them on to these handlers once it has finished.
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, _ended)
    server = _Server(configure(app, limits), started)
    if load and hasattr(signal, "SIGHUP") and not (sys.stdin and sys.stdin.isatty()):
        server.reload = _Reload(current, load)
    server.orphaned = orphaned
    server.run([listener])
    return counted.answered


def configure(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """The configuration with which uvicorn serves `app`."""
    return uvicorn.Config(
        app, loop="asyncio", http=Connection, ws="none", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=min(_IDLE_SECONDS, limits.seconds), timeout_graceful_shutdown=2 * limits.seconds + 5,
    )  # fmt: skip


class _Reload:
    """Loads the network again, in a thread. Asked to while it does, it does so once more."""

    def __init__(self, current: Current, load: Callable[[], Served]) -> None:
        self._current = current
        self._load = load
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def ask(self) -> None:
        """Begins to load, and returns."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while self._again:
            self._again = False
            try:
                self._current.replace(await asyncio.to_thread(self._load))
            except DynconvError as error:
                logger.warning("the weights were not loaded again: %s", error)
            else:
                logger.info("the weights were loaded again")


class _Server(uvicorn.Server):
    reload: _Reload | None = None
    orphaned: int | None = None
    """File descriptor at whose end of file the process that started this one has died."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if self.reload:
            loop.add_signal_handler(signal.SIGHUP, self.reload.ask)
        if self.orphaned is not None:
            loop.add_reader(self.orphaned, self._stop)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What was accepted becomes a connection in the next round of the loop; a server that is closed then drops it.
        loop = asyncio.get_running_loop()
        for listener in (listener for server in self.servers for listener in server.sockets):
            with contextlib.suppress(NotImplementedError):  # Windows' loop has no readers
                loop.remove_reader(listener)
        await asyncio.sleep(0)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        assert self.orphaned is not None
        asyncio.get_running_loop().remove_reader(self.orphaned)
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # a label that is empty or too long is no name in IDNA
        reason = getattr(error, "strerror", None) or "not a host name"
        raise DynconvError(f"host: {host!r} is not an address of this machine ({reason})") from error
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
