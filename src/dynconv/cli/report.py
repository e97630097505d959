"""`dynconv report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.report.write import write_report
from dynconv.training.config import TrainConfig
from dynconv.validation import field_descriptions


class ReportArguments(Arguments):
    """Writes one self-contained page, and its plots as PNG and SVG. The other formats are reports to hand in: the
    network's equations and layers, curves, results, routing, hyper-parameters, and the command to reproduce it all.
    """

    runs: Annotated[Positional[tuple[Path, ...]], Field(min_length=1), tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories."""
    format: Literal["html", "pdf", "md", "tex", "ipynb"] = "html"
    """html: a page; several runs stand side by side. To hand in: pdf; md, Markdown; tex, LaTeX; ipynb, a notebook. Of
    these, several runs must differ only in their seed; pdf and ipynb need the extra handin."""
    output: Path | None = None
    """Folder for the report and its plots. Default: report/ in the run, or beside the runs if there are several."""
    data: str | None = None
    """Images, for a single run or a report to hand in: a path, or the name of a data set. Default: the data that the
    network was trained on."""


def run(words: Sequence[str]) -> int:
    """Writes the report and prints its path."""
    arguments = parse(ReportArguments, words, "report")
    show_messages()
    meanings = field_descriptions(TrainConfig)
    print(write_report(arguments.runs, arguments.output, arguments.data, meanings=meanings, format=arguments.format))
    return 0
