"""`dynconv explain`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.report.explanation import Explainer

logger = logging.getLogger(__name__)


class ExplainArguments(Arguments):
    """Shows the prediction, each block's routing weights, and which pixels mattered."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory or weights file."""
    images: Annotated[Positional[tuple[Path, ...]], Field(min_length=1), tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    output: Path = Path()
    """Folder for a picture of each explanation, <image>-explained.png; existing files are kept."""
    data: str | None = None
    """Data set for the class means. Default: the data that the network was trained on."""


def run(words: Sequence[str]) -> int:
    """Prints an explanation of each image and writes its picture."""
    arguments = parse(ExplainArguments, words, "explain")
    show_messages()
    explainer = Explainer(Predictor.load(arguments.run), arguments.data)
    console = Console()
    failed = 0
    for image in arguments.images:
        try:
            explanation = explainer.explain(image)
        except DynconvError as error:
            logger.error(error)
            failed += 1
            continue
        picture = explanation.save(arguments.output)
        console.print(explanation.table(), highlight=False)
        print(picture)
    return 1 if failed else 0
