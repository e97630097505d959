"""HTTP connections: a time limit for clients that are slow on purpose, and no request lost when the server ends."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_LAST_SECONDS = 1.0
"""Seconds for which a server that ends still waits for the header of a request on a connection without one."""


class Connection(H11Protocol):
    """Closes the connection unless a whole request header, or the rest of a refused body, arrives in time.

    uvicorn limits only the pause after an answer; this class applies the same limit from the first byte on. While a
    request is being answered, the request's own limits apply.

    When the server ends, uvicorn closes connections without a request at once, and loses those that are on their way,
    such as the first one on a new connection. Here they are answered, and the answer says that it is the last.
    """

    _closing: asyncio.TimerHandle | None = None
    _last = False  # the next answer is the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._last:
            self._end_with_answer()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def shutdown(self) -> None:
        """Called once, when the server ends."""
        self._last = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_with_answer()
            return
        self._unwatch()
        self._closing = self.loop.call_later(min(_LAST_SECONDS, self.config.timeout_keep_alive), self._close)

    def _end_with_answer(self) -> None:
        """Has the connection closed after the answer in progress, if there is one, and the client told so in it."""
        if self.cycle is None or self.cycle.response_complete:
            return
        self.cycle.keep_alive = False
        if not self.cycle.response_started:  # a list of its own: the server's is that of all connections
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._closing is None:
            self._closing = self.loop.call_later(self.config.timeout_keep_alive, self._close)

    def _unwatch(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _close(self) -> None:
        self._closing = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
