"""`dynconv report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.report.write import write_report
from dynconv.training.config import TrainConfig
from dynconv.training.presets import by_field
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
    author: str = ""
    """Who hands it in, shown below the title with today's date: "Ada Lovelace, Machine Learning, winter term"."""
    data: str | None = None
    """Images, for a single run or a report to hand in: a path, or the name of a data set. Default: the data that the
    network was trained on."""

    @model_validator(mode="after")
    def _author_of_a_page(self) -> Self:
        if self.author and self.format == "html":
            raise ValueError("author: goes with --format pdf, md, tex or ipynb; a page has none")
        return self


def run(words: Sequence[str]) -> int:
    """Writes the report and prints its path."""
    arguments = parse(ReportArguments, words, "report")
    show_messages()
    path = write_report(
        arguments.runs, arguments.output, arguments.data, meanings=field_descriptions(TrainConfig),
        format=arguments.format, author=arguments.author, presets=by_field(),
    )  # fmt: skip
    print(path)
    return 0
