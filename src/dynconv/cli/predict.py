"""`dynconv predict`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Self

import tyro
from pydantic import Field, model_validator
from rich.console import Console
from rich.progress import Progress
from tyro.conf import Positional

from dynconv.artifacts.found_weights import DEFAULT, is_packaged
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.inference.files import copy_by_class, find
from dynconv.inference.predict import Outcome, predict
from dynconv.inference.predictor import Predictor
from dynconv.inference.rows import Form, row_writer
from dynconv.model.tta import EVAL_BATCH

logger = logging.getLogger(__name__)


class PredictArguments(Arguments):
    """Prints a table, or with --json one line per image as soon as it is classified. If some images cannot be read, the
    others are still classified, and the exit code is 1.
    """

    images: Annotated[Positional[tuple[str, ...]], Field(min_length=1), tyro.conf.arg(metavar="IMAGE|FOLDER|- ...")]
    """Image files; folders, searched for images; - for an image on standard input."""
    model: Path = Path(DEFAULT)
    """Run directory, weights file, or accurate or standard for packaged weights, trained on CIFAR-10."""
    top: Annotated[int, Field(ge=1)] = 3
    """Number of classes to show per image."""
    tta: bool = False
    """Test-time augmentation: average over six views of images the network is unsure of; more accurate, slower."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object per line: image, and class, probability, top; or error."""
    csv: bool = False
    """Print comma-separated values: image, then class and probability of each of the --top classes."""
    copy_to: Path | None = None
    """Copy each image into this folder, into a subfolder named after its class. Nothing is overwritten."""

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if self.json_ and self.csv:
            raise ValueError("json: choose one of --json and --csv")
        return self


def run(words: Sequence[str]) -> int:
    """Prints the classes of the images batch by batch, and which images could not be read."""
    arguments = parse(PredictArguments, words, "predict")
    console = show_messages()
    predictor = Predictor.load(arguments.model)
    sources = find(arguments.images)
    form: Form = "json" if arguments.json_ else "csv" if arguments.csv else "table"
    if form == "table" and is_packaged(arguments.model):
        names = ", ".join(predictor.classes)
        logger.info("%d classes: %s; every image gets one of them", len(predictor.classes), names)
    write = row_writer(form, sources, predictor.classes, arguments.top)
    failed = 0
    for outcome in _shown(predict(predictor, sources, top=arguments.top, tta=arguments.tta), len(sources), console):
        if outcome.prediction is None:
            failed += 1
            logger.error(outcome.error)
        elif arguments.copy_to:
            copy_by_class(outcome.source, outcome.prediction.label, arguments.copy_to)
        write(outcome)
    if failed:
        logger.error("%d of %d images could not be read", failed, len(sources))
    return 1 if failed else 0


def _shown(outcomes: Iterable[Outcome], total: int, console: Console) -> Iterable[Outcome]:
    """Shows a progress bar on standard error for long lists, if that is a terminal and standard output is not."""
    if total <= EVAL_BATCH or not console.is_terminal or sys.stdout.isatty():
        yield from outcomes
        return
    with Progress(console=console) as bar:
        yield from bar.track(outcomes, total, description="images")
