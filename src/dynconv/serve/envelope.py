"""Adds security headers and the request's id to every answer, logs it, and counts it in the metrics."""

from __future__ import annotations

import time

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from dynconv.serve import logs
from dynconv.serve.metrics import Metrics

HEADERS = {
    # Everything comes from this server; blob: and data: are images chosen by the visitor.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds; logged only if something is wrong."""


class Envelope:
    """The outermost ASGI middleware, so that it also sees answers with status 500."""

    def __init__(self, app: FastAPI, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = {route.path for route in app.routes if isinstance(route, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        identity = logs.new_request_id(Headers(scope=scope).get(logs.REQUEST_ID))
        logs.request_id.set(identity)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS | {logs.REQUEST_ID: identity})
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                path, seconds = scope["path"], time.perf_counter() - began
                self._metrics.count_answer(path if path in self._paths else "other", status, seconds)
                if path not in _PROBES or status >= 400:
                    client = scope["client"][0] if scope["client"] else ""
                    logs.log_answer(client, scope["method"], path, status, seconds)

        await self._app(scope, receive, sent)
