"""`dynconv runs`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.errors import DynconvError
from dynconv.report.runs import as_csv, as_json, as_table, chosen, fitting, read_runs
from dynconv.training.presets import by_field

logger = logging.getLogger(__name__)


class RunsArguments(Arguments):
    """Damaged runs are listed as damaged."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    """Folder that holds the run directories."""
    sort: str | None = None
    """Field to sort by: accuracy, accuracy_tta or validation_accuracy, the best first; another one, such as
    train_seconds or optim.lr, the lowest first. Default: by name."""
    filter: tuple[str, ...] = ()
    """Show only runs with these values, as FIELD=VALUE: data=cifar10 state=finished optim.lr=0.1."""
    csv: bool = False
    """Print CSV with a header, for pandas.read_csv or a spreadsheet. Accuracies are fractions."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print a JSON list, with all hyper-parameters of each run."""


def run(words: Sequence[str]) -> int:
    """Prints the runs in a folder: a table, CSV or JSON."""
    arguments = parse(RunsArguments, words, "runs")
    show_messages()
    if arguments.csv and arguments.json_:
        raise DynconvError("--csv goes without --json; choose one")
    found = read_runs(arguments.folder, by_field())
    rows = chosen(found, arguments.filter, arguments.sort)
    if not found:
        logger.warning("%s: holds no runs", arguments.folder)
    if arguments.csv:
        print(as_csv(rows), end="")
    elif arguments.json_:
        print(as_json(rows))
    elif rows and sys.stdout.isatty():
        console = Console()
        console.print(fitting(rows, console), highlight=False)
    elif rows:
        Console(width=200).print(as_table(rows))  # one line per run for whatever reads this through a pipe
    return 0
