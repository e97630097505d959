"""The page about several runs: their configurations side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dynconv.artifacts.records import Summary
from dynconv.report import compare, curves
from dynconv.report.page import render
from dynconv.report.plot import Plot
from dynconv.report.record import RunRecord

_FIGURES: dict[str, Callable[[Summary], float | None]] = {
    "test accuracy": lambda summary: summary.test_accuracy,
    "with test-time augmentation": lambda summary: summary.test_accuracy_tta,
    "test loss": lambda summary: summary.test_loss,
    "training, s": lambda summary: summary.train_seconds,
    "parameters": lambda summary: summary.parameters,
    "multiply-adds": lambda summary: summary.multiply_adds,
}


def runs_page(records: list[RunRecord], folder: Path) -> tuple[str, list[Plot]]:
    """The page as HTML, with links relative to `folder`, and the plots on it."""
    groups = compare.group(records)
    epochs = {group.name: [record.epochs for record in group.records if record.epochs] for group in groups}
    costs = {
        group.name: [
            (summary.best_accuracy, summary.train_seconds, summary.multiply_adds / 1e6)
            for summary in (record.summary for record in group.records)
            if summary
        ]
        for group in groups
    }
    plots = [
        *curves.overlay({name: runs for name, runs in epochs.items() if runs}),
        *([curves.pareto({name: points for name, points in costs.items() if points})] if any(costs.values()) else []),
    ]
    member_of = {id(record): group for group in groups for record in group.records}
    page = render(
        "runs.html",
        title=f"{len(records)} runs, {len(groups)} configuration{'s' if len(groups) > 1 else ''}",
        table=[(group, [(name, group.figure(of)) for name, of in _FIGURES.items()]) for group in groups],
        figures=list(_FIGURES),
        fields=list(groups[0].differing),
        verdicts=compare.verdicts(groups),
        records=[(record, member_of[id(record)], _link(record, folder)) for record in records],
        plots={plot.name: plot for plot in plots},
        problems=[problem for record in records for problem in record.problems],
    )
    return page, plots


def _link(record: RunRecord, folder: Path) -> str | None:
    """The link to a run's own page; None if it has none."""
    page = record.path / "report" / "report.html"
    return Path(os.path.relpath(page, folder)).as_posix() if page.exists() else None
