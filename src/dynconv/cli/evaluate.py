"""`dynconv evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.errors import escaped
from dynconv.inference.evaluate import as_dict, evaluate
from dynconv.inference.evaluation_tables import as_tables
from dynconv.inference.predictor import Predictor
from dynconv.inference.trained_data import choose_split, load_dataset


class EvaluateArguments(Arguments):
    """Includes the figures of each class, and which classes are mistaken for which."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory or weights file."""
    data: str | None = None
    """A path, or the name of a data set. Default: the data that the network was trained on."""
    split: Literal["test", "train", "validation"] = "test"
    """Images to evaluate on. validation: the run's hold-out set."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as JSON."""


def run(words: Sequence[str]) -> int:
    """Prints the figures of a trained network, as tables or as JSON."""
    arguments = parse(EvaluateArguments, words, "evaluate")
    show_messages()
    predictor = Predictor.load(arguments.run)
    dataset = load_dataset(predictor, arguments.data, split=arguments.split)
    split = choose_split(dataset, arguments.split)
    plain = evaluate(predictor, split)
    tta = evaluate(predictor, split, tta=True) if predictor.run is None or predictor.run.config.tta else None
    if arguments.json_:
        which = {"run": str(arguments.run), "data": dataset.name, "split": arguments.split}
        print(json.dumps(which | as_dict(plain, tta, predictor.classes)))
    else:
        console = Console()
        title = escaped(f"{arguments.run} on {dataset.name}, {arguments.split}")
        console.print(title, highlight=False, markup=False)
        console.print(as_tables(plain, tta, predictor.classes), highlight=False)
    return 0
