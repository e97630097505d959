"""Runs -> the document to hand in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from dynconv.errors import DynconvError
from dynconv.report import compare, page
from dynconv.report.handin import method, outcome, settings
from dynconv.report.handin.document import Block, Column, Document, Items, Span, Table, text
from dynconv.report.run_page import conditions, interval_text
from dynconv.report.runs import NO_PRESETS, Presets, differing
from dynconv.report.subject import Subject
from dynconv.validation import flat, shown


def assemble(
    subjects: Sequence[Subject], folder: Path, data: str | None = None, author: str = "", presets: Presets = NO_PRESETS
) -> Document:
    """The document about one run, or about several that differ only in their seed.

    Args:
        folder: where it will be written; a notebook names the runs as seen from there.
        data: what `--data` said.
        author: who hands it in.
        presets: the hyper-parameters of each preset.

    Raises:
        DynconvError: the runs' hyper-parameters differ in more than the seed.
    """
    records = [subject.record for subject in subjects]
    groups = compare.group(records)
    if len(groups) > 1:
        names = list(groups[0].differing)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DynconvError(
            f"these runs differ in {', '.join(names[:3])}{more}; name runs that differ only in their seed, or leave "
            "--format out for a page that compares them"
        )
    (group,), first = groups, subjects[0]
    seeds = [record.config.seed for record in records]
    title = f"{first.record.config.preset} on {first.record.data_name}"
    changed = differing(flat(first.record.config.tree()), presets.get(first.record.config.preset, {}))
    which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    subtitle = f"preset {title}{', changed' if changed else ''}, {which}"
    return Document(
        title="Image classification with dynamic convolutions",
        subtitle=subtitle[0].upper() + subtitle[1:],
        byline=f"{author}, {date.today().isoformat()}" if author else "",
        abstract=_abstract(subjects, group, changed),
        setup=_setup(subjects, folder, data),
        chapters=[
            method.task(first),
            method.model(first),
            method.training(first),
            outcome.learning(subjects, f"{title}, {len(seeds)} runs" if len(seeds) > 1 else first.record.title),
            outcome.outcome(subjects, group),
            outcome.routing(subjects),
            settings.hyperparameters(first, seeds),
            settings.environment(subjects),
        ],
    )


def _abstract(subjects: Sequence[Subject], group: compare.Group, changed: Mapping[str, Any]) -> list[Block]:
    first = subjects[0]
    rows: list[tuple[Span, ...]] = [(name, value, "") for name, value in outcome.accuracies(group)]
    if rows and len(subjects) == 1 and first.results and first.record.summary:
        rows[-1] = (*rows[-1][:2], interval_text(first.record.summary.best_accuracy, len(first.results.metrics.labels)))
    elif len(subjects) > 1:
        rows = [(name, value, "mean ± standard deviation") for name, value, _ in rows]
    for fact in conditions(first):
        if fact.name == "training time" and len(subjects) > 1:
            figure = group.figure(outcome.FIGURES["training, s"])
            rows.append((fact.name, f"{page.figure('training, s', figure)} s", "mean ± standard deviation"))
        else:
            rows.append((fact.name, fact.value, fact.note))
    if changed:
        rows.append(
            ("not as in the preset", "; ".join(f"{name} {shown(value)}" for name, value in changed.items()), "")
        )
    config = first.record.config.model
    blocks: list[Block] = [
        text(
            f"A convolutional network of {len(config.widths)} blocks is trained to classify images. In each block, a "
            "router mixes several convolutions into one, with weights that it predicts for each image."
        ),
        Table(
            "The result at a glance.",
            (Column("", share=0.3), Column("", share=0.35), Column("", share=0.35)),
            tuple(rows),
        ),
    ]
    if first.routing and len(subjects) == 1:
        blocks.append(text(first.routing.verdict))
    if problems := tuple(problem for subject in subjects for problem in subject.record.problems):
        blocks += [text("Some content is left out because of missing or damaged files:"), Items(problems)]
    return blocks


def _setup(subjects: Sequence[Subject], folder: Path, data: str | None) -> str:
    """The first code of a notebook."""
    paths = [Path(os.path.relpath(subject.record.path.resolve(), folder.resolve())).as_posix() for subject in subjects]
    statistics = ["from statistics import mean, stdev", ""] if len(subjects) > 1 else []
    return "\n".join([
        *statistics,
        "import dynconv",
        "",
        f"data = {data!r}  # where the images are; None: where they were in training",
        f"runs = [dynconv.Run(path) for path in {paths!r}]",
        "figures = dynconv.figures(*runs, data=data)",
    ])  # fmt: skip
