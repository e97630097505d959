"""`dynconv doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.doctor import examine, report


class DoctorArguments(Arguments):
    """Prints one finding per line, then advice."""


def run(words: Sequence[str]) -> int:
    """Prints what was found on this machine and what to do about it."""
    parse(DoctorArguments, words, "doctor")
    show_messages()
    Console().print(report(examine()), highlight=False, soft_wrap=True)  # one finding per line
    return 0
