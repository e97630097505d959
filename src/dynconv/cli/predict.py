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

from dynconv.artifacts.found_weights import DEFAULT
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.inference.files import copy_by_class, find
from dynconv.inference.predict import Outcome, predict
from dynconv.inference.predictor import Predictor
from dynconv.inference.rows import UNSURE, Form, label_of, row_writer
from dynconv.model.tta import EVAL_BATCH
from dynconv.validation import Fraction

logger = logging.getLogger(__name__)

_MOST_NAMED = 20  # classes


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
    min_probability: Fraction = 0.0
    """Least probability, 0 to 1, of an answer: an image whose likeliest class has less is called unsure.
    CSV shows the probabilities either way."""
    tta: bool = False
    """Test-time augmentation: average over six views of images the network is unsure of; more accurate, slower."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object per line: image, and class, probability, top; or error."""
    csv: bool = False
    """Print comma-separated values: image, then class and probability of each of the --top classes."""
    copy_to: Path | None = None
    """Copy each image into this folder, into a subfolder named after its class, or unsure. Nothing is overwritten."""

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
    if form == "table":
        logger.info("%s", _known(predictor.classes, arguments.min_probability))
    write = row_writer(form, sources, predictor.classes, arguments.top, arguments.min_probability)
    failed = 0
    for outcome in _shown(predict(predictor, sources, top=arguments.top, tta=arguments.tta), len(sources), console):
        if outcome.prediction is None:
            failed += 1
            logger.error(outcome.error)
        elif arguments.copy_to:
            copy_by_class(outcome.source, label_of(outcome.prediction, arguments.min_probability), arguments.copy_to)
        write(outcome)
    if failed:
        logger.error("%d of %d images could not be read", failed, len(sources))
    return 1 if failed else 0


def _known(classes: Sequence[str], least: float) -> str:
    """Which answers there are."""
    names = ", ".join(classes[:_MOST_NAMED]) + (", ..." if len(classes) > _MOST_NAMED else "")
    rest = f"below {least:.0%} an image is reported as {UNSURE}" if least else "every image is assigned one of these"
    return f"{len(classes)} classes: {names}; {rest}"


def _shown(outcomes: Iterable[Outcome], total: int, console: Console) -> Iterable[Outcome]:
    """Shows a progress bar on standard error for long lists, if that is a terminal and standard output is not."""
    if total <= EVAL_BATCH or not console.is_terminal or sys.stdout.isatty():
        yield from outcomes
        return
    with Progress(console=console) as bar:
        yield from bar.track(outcomes, total, description="images")
