"""`dynconv data`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from dynconv.artifacts.files import write_atomically
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.cli.settings import chosen_fields
from dynconv.data.augment import AugmentConfig
from dynconv.data.contact_sheet import as_training_sees, contact_sheet, sample
from dynconv.data.examine import Contents, Doubt, contents, doubts
from dynconv.data.frame import DataConfig
from dynconv.data.overview import as_dict, print_overview
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.training.suited import augment_for


class DataArguments(Arguments):
    """Counts, sizes, damaged files, copies, and a contact sheet. With --model, images whose labels may be wrong."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A path, cifar10 or another named data set, shapes or auto, as for `dynconv train --data`."""
    data: DataConfig = DataConfig()
    augmented: bool = False
    """Show on the contact sheet what training sees, a column for each epoch; --augment.FIELD as for training."""
    augment: AugmentConfig = AugmentConfig()
    sheet: Path | None = None
    """Where to write the contact sheet, a PNG file. Default: contact-sheet.png."""
    model: Path | None = None
    """Run directory or weights file of a network trained on these classes: lists the images that it is sure to be of
    another class than their label says. Images are read as that network reads them."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print everything as JSON, and write a contact sheet only where --sheet says."""


def run(words: Sequence[str]) -> int:
    """Prints what a data set holds; the contact sheet's path is the last line."""
    arguments = parse(DataArguments, words, "data")
    show_messages()
    wanted, predictor = arguments.data, None
    if arguments.model:
        predictor = Predictor.load(arguments.model)
        wanted = DataConfig(size=predictor.frame.size, fit=predictor.frame.fit)
    found = contents(arguments.source, wanted)
    doubtful = _doubts(found, predictor) if predictor else None
    if arguments.json_:
        print(json.dumps(as_dict(found, doubtful or [])))
    else:
        print_overview(found, doubtful)
    if arguments.sheet or not arguments.json_:
        path = arguments.sheet or Path("contact-sheet.png")
        if arguments.augmented:
            augment = augment_for(found.name, arguments.augment, found.frame.size, chosen_fields(words, None))
            images, labels = as_training_sees(found, augment)
        else:
            images, labels = sample(found)
        picture = contact_sheet(images, labels, found.classes)
        write_atomically(path, lambda file: picture.save(file, "PNG"))
        if not arguments.json_:
            print(path)
    return 0


def _doubts(found: Contents, predictor: Predictor) -> list[Doubt]:
    if predictor.classes != found.classes:
        raise DynconvError(f"{found.origin}: its classes are not those of the network ({', '.join(predictor.classes)})")
    return doubts(found, predictor.probabilities(found.images))
