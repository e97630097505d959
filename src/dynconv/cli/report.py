"""`dynconv report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.report.write import write_report
from dynconv.training.config import TrainConfig
from dynconv.validation import field_descriptions


class ReportArguments(Arguments):
    """Writes one self-contained page, and its plots as PNG and SVG."""

    runs: Annotated[Positional[tuple[Path, ...]], Field(min_length=1), tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories."""
    output: Path | None = None
    """Folder for the page and the plots. Default: report/ in the run, or beside the runs if there are several."""
    data: str | None = None
    """For a single run: cifar10, shapes, auto or a path. Default: the data that the network was trained on."""


def run(words: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    arguments = parse(ReportArguments, words, "report")
    show_messages()
    meanings = field_descriptions(TrainConfig)
    print(write_report(arguments.runs, arguments.output, arguments.data, meanings=meanings))
    return 0
