"""`dynconv runs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.report.runs import runs_table


class RunsArguments(Arguments):
    """Damaged runs are listed as damaged."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    """Folder that holds the run directories."""


def run(words: Sequence[str]) -> int:
    """Prints the table of the runs in a folder."""
    arguments = parse(RunsArguments, words, "runs")
    show_messages()
    # One line per run for whatever reads this through a pipe.
    Console(width=None if sys.stdout.isatty() else 200).print(runs_table(arguments.folder))
    return 0
