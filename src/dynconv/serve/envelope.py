"""Adds security headers to every answer, and counts it in the metrics."""

from __future__ import annotations

import time

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

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

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.count_answer(path, status, time.perf_counter() - began)

        await self._app(scope, receive, sent)
