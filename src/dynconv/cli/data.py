"""`dynconv data`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tyro.conf import Positional

from dynconv.artifacts.files import write_atomically
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.cli.settings import chosen_fields
from dynconv.data.augment import AugmentConfig, require_shift_within
from dynconv.data.batches import training_batches
from dynconv.data.contact_sheet import contact_sheet
from dynconv.data.dataset import Split
from dynconv.data.examine import Contents, Doubt, advice, contents, doubts, shown_path
from dynconv.data.frame import DataConfig
from dynconv.data.listing import TRAIN
from dynconv.errors import DynconvError, escaped
from dynconv.inference.predictor import Predictor
from dynconv.training.suited import augment_for_size

_COLUMNS = 10  # images of a class on the contact sheet
_MOST_SHOWN = 20  # rows of a list
_MOST_COPIES = 4  # images of a group of copies that a row names


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
    doubtful = _doubts(found, predictor) if predictor else []
    if arguments.json_:
        print(json.dumps(_as_dict(found, doubtful)))
    else:
        _print(found, doubtful, asked=predictor is not None)
    if arguments.sheet or not arguments.json_:
        path = arguments.sheet or Path("contact-sheet.png")
        images, labels = _sample(found)
        if arguments.augmented:
            chosen = chosen_fields(words, None)
            images, labels = _seen(found, augment_for_size(arguments.augment, found.frame.size, chosen))
        picture = contact_sheet(images, labels, found.classes, columns=_COLUMNS)
        write_atomically(path, lambda file: picture.save(file, "PNG"))
        if not arguments.json_:
            print(path)
    return 0


def _doubts(found: Contents, predictor: Predictor) -> list[Doubt]:
    if predictor.classes != found.classes:
        raise DynconvError(f"{found.origin}: its classes are not those of the network ({', '.join(predictor.classes)})")
    return doubts(found, predictor.probabilities(found.images))


def _sample(found: Contents) -> tuple[Tensor, Tensor]:
    """As many images of each class as the sheet has columns, drawn at random; each time the same."""
    order = torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(0))
    first = torch.cat([order[found.labels[order] == label][:_COLUMNS] for label in range(len(found.classes))])
    return found.images[first], found.labels[first]


def _seen(found: Contents, augment: AugmentConfig) -> tuple[Tensor, Tensor]:
    """The first training image of each class as training sees it in one epoch after another."""
    is_train = torch.tensor([split == TRAIN for split in found.splits])
    images, labels = found.images[is_train], found.labels[is_train]
    first = [int((labels == label).nonzero()[0, 0]) for label in range(len(found.classes)) if (labels == label).any()]
    require_shift_within(augment, found.frame.size)
    split, classes = Split(images[first], labels[first]), len(found.classes)
    seen, targets = [], []
    for epoch in range(_COLUMNS):
        for x_NCHW, target in training_batches(split, classes, augment, len(first), found.frame.size, epoch, 0):
            seen.append((x_NCHW.clamp(0, 1) * 255).round().byte().contiguous())
            targets.append(target.argmax(1) if target.is_floating_point() else target)
    return torch.cat(seen), torch.cat(targets)


def _print(found: Contents, doubtful: list[Doubt], *, asked: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    frame, name = found.frame, escaped(found.name)
    console.print(f"{name}: {len(found.classes)} classes, {len(found.names):,} images", markup=False)
    sizes = _sizes(found)
    console.print(f"read at {frame.size}x{frame.size} pixels ({frame.fit}){f'; in the files {sizes}' if sizes else ''}")
    if not found.own_splits:
        console.print("no splits of its own: a fifth of each class is set aside for testing, by content")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class", overflow="fold")
    for split in found.used_splits:
        table.add_column(split, justify="right")
    for label, each in enumerate(found.classes):
        table.add_row(Text(escaped(each)), *(f"{found.count(label, split):,}" for split in found.used_splits))
    console.print(table)
    _print_list(console, "damaged", [shown_path(found.damaged[each], found.origin) for each in sorted(found.damaged)])
    for title, groups, differing in (
        ("copies", found.copies, found.names),
        ("copies across splits", found.across_splits, found.splits),
        ("copies with different labels", found.across_classes, found.labels.tolist()),
    ):
        _print_list(console, title, [_copies(found, group, differing) for group in groups])
    if asked:
        _print_list(console, "labels in doubt", [
            f"{_named(found, each.position)}: {each.given} {each.given_probability:.1%}, "
            f"{each.likely} {each.likely_probability:.1%}"
            for each in doubtful
        ])  # fmt: skip
    for line in advice(found):
        console.print(f"- {line}", markup=False)


def _print_list(console: Console, title: str, rows: Sequence[str]) -> None:
    console.print(f"{title}: {len(rows) or 'none'}")
    for row in rows[:_MOST_SHOWN]:
        console.print(f"  {row}", markup=False)
    if len(rows) > _MOST_SHOWN:
        console.print(f"  ... and {len(rows) - _MOST_SHOWN:,} more; --json lists them all")


def _copies(found: Contents, group: list[int], differing: Sequence[object]) -> str:
    """Some images of a group of copies: one of each split or label in which they differ comes before the others."""
    firsts = {differing[each]: each for each in reversed(group)}
    shown = sorted(group, key=lambda each: (firsts[differing[each]] != each, each))[:_MOST_COPIES]
    more = f" = ... ({len(group) - len(shown):,} more)" if len(group) > len(shown) else ""
    return " = ".join(_named(found, each) for each in shown) + more


def _named(found: Contents, position: int) -> str:
    return f"{shown_path(found.names[position], found.origin)} ({found.splits[position]})"


def _sizes(found: Contents) -> str:
    if not found.sizes:
        return ""
    shorter = [min(size) for size in found.sizes]
    return (
        f"shorter sides of {min(shorter):,} to {max(shorter):,}, median {statistics.median_low(shorter):,}; "
        f"{sum(width == height for width, height in found.sizes):,} are square"
    )


def _as_dict(found: Contents, doubtful: list[Doubt]) -> dict[str, Any]:
    """For JSON."""

    def groups(positions: list[list[int]]) -> list[list[str]]:
        return [[found.names[each] for each in group] for group in positions]

    return {
        "name": found.name,
        "origin": found.origin,
        "size": found.frame.size,
        "fit": found.frame.fit,
        "own_splits": found.own_splits,
        "classes": {
            name: {split: found.count(label, split) for split in found.used_splits}
            for label, name in enumerate(found.classes)
        },
        "damaged": {found.names[each]: reason for each, reason in sorted(found.damaged.items())},
        "copies": groups(found.copies),
        "copies_across_splits": groups(found.across_splits),
        "copies_with_different_labels": groups(found.across_classes),
        "labels_in_doubt": [
            {"image": found.names[each.position], "split": found.splits[each.position], "given": each.given,
             "likely": each.likely, "given_probability": each.given_probability,
             "likely_probability": each.likely_probability}
            for each in doubtful
        ],
        "advice": advice(found),
    }  # fmt: skip
