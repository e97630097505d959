"""`dynconv doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.cli.terminal import filled
from dynconv.doctor import examine, report


class DoctorArguments(Arguments):
    """Prints one finding per line, then advice."""


def run(words: Sequence[str]) -> int:
    """Prints what was found on this machine and what to do about it."""
    parse(DoctorArguments, words, "doctor")
    show_messages()
    console = Console()
    found = report(examine(), filled if console.is_terminal else None)  # one finding per line for programs
    console.print(found, highlight=False, soft_wrap=True)
    return 0
