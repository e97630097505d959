"""The server's log as JSON: a line for each answer and for each message, with the id of the request.

The id is the client's `X-Request-ID` if that is harmless, or else a random one; the answer carries it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

REQUEST_ID = "X-Request-ID"
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being handled; empty outside of one."""

_answers = logging.getLogger("dynconv.serve.answers")
_answers.setLevel(logging.WARNING)  # no line for each answer, unless the log is JSON
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


def new_request_id(given: str | None) -> str:
    """`given` if it is short and harmless, else a random one."""
    return given if given and _HARMLESS.fullmatch(given) else uuid.uuid4().hex


def log_answer(client: str, method: str, path: str, status: int, seconds: float) -> None:
    """Logs one answer if the log is JSON. `path` comes without its query."""
    if _answers.isEnabledFor(logging.INFO):
        fields = {"client": client, "method": method, "path": path[:200], "status": status}
        _answers.info("answer", extra={"fields": fields | {"ms": round(1000 * seconds, 2)}})


def log_as_json(stream: TextIO = sys.stderr) -> None:
    """From now on, everything that is logged goes to `stream`, one JSON object per line, and each answer is logged."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json())
    logging.root.handlers[:] = [handler]
    ours = logging.getLogger("dynconv")
    ours.handlers.clear()  # those that print for people
    ours.setLevel(logging.INFO)
    _answers.setLevel(logging.INFO)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if found := request_id.get():
            fields["request_id"] = found
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
