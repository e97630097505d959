"""The machine, the software, and how to train again."""

from __future__ import annotations

import shlex
from typing import Any

from dynconv.report.section import Content, section
from dynconv.report.subject import Subject
from dynconv.validation import shown


@section("environment", "Environment", order=60)
def make(subject: Subject) -> Content:
    """Shows the environment that the run recorded."""
    environment = subject.record.environment
    fields = environment.tree() if environment else {}
    if "device" in fields and subject.record.summary:
        fields["device"] = subject.record.summary.device  # what `auto` was
    rows = [
        (name.replace("_", " "), _text(value)) for name, value in fields.items() if name not in ("command", "fixed")
    ]
    path = subject.record.path
    again = f"dynconv train --config {shlex.quote(str(path / 'config.yaml'))}"
    if environment and environment.data_source:
        again += f" --data {shlex.quote(environment.data_source)}"
    command = environment.command if environment else None
    return Content(values={"command": command, "again": again, "path": shlex.quote(str(path)), "rows": rows})


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items()) or "none"
    return ("" if value is None else shown(value)) or "none"
