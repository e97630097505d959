"""What a data set holds, in words and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynconv.data.examine import Contents, Doubt, advice, shown_path
from dynconv.errors import escaped

_MOST_SHOWN = 20  # rows of a list
_MOST_COPIES = 4  # images of a group of copies that a row names


def print_overview(found: Contents, doubtful: Sequence[Doubt] | None) -> None:
    """Prints counts, sizes, damaged files, copies, advice and, unless it is None, the labels in doubt."""
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
    if doubtful is not None:
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


def as_dict(found: Contents, doubtful: Sequence[Doubt]) -> dict[str, Any]:
    """The same for JSON, with all groups of copies whole."""

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
