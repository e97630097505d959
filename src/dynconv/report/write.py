"""run directories -> one self-contained HTML page and its plots, as PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.report import compare, curves
from dynconv.report.one import again, report_run, title
from dynconv.report.record import Record, load_images, load_network, read_record
from dynconv.report.style import Plot

PAGE = "report.html"


def write_report(
    runs: Sequence[Path],
    output: Path | None = None,
    data: str | None = None,
    dataset: Dataset | None = None,
    announce: Callable[[str], None] = print,
) -> Path:
    """Writes report.html and the plots of one run, or of several side by side.

    Args:
        runs: run directories.
        output: folder for the files; by default report/ in the run, or beside the runs where there are several.
        data: where the images are; by default where the run had them from. For one run.
        dataset: the images, where they are in memory already.
        announce: takes a line for each thing that is missing or damaged.

    Returns:
        the page.

    Raises:
        DynconvError: a path that is no run, a run named twice, or a folder that cannot be written.
    """
    resolved = [run.resolve() for run in runs]
    for run, path in zip(runs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise DynconvError(f"{run}: named twice")
    records = [read_record(run) for run in runs]
    folder = (
        output or (runs[0] if len(runs) == 1 else Path(os.path.commonpath([run.parent for run in resolved]))) / "report"
    )
    plots, page = _one(records[0], data, dataset, announce) if len(records) == 1 else _several(records)
    for record in records:
        for problem in record.problems:
            announce(problem)
    _save(plots, folder, page)
    return folder / PAGE


def write_curves(run: Path) -> None:
    """Writes the plots over epochs and time alone, into report/ in the run; nothing where no epoch has ended.

    Raises:
        DynconvError: `run` is no run, or cannot be written.
    """
    record = read_record(run)
    plots = curves.curves(record.epochs, title(record))
    _save(plots, run / "report")


def _save(plots: list[Plot], folder: Path, page: str | None = None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in plots:
            plot.save(folder)
        if page is not None:
            (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise DynconvError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error


def _one(
    record: Record, data: str | None, dataset: Dataset | None, announce: Callable[[str], None]
) -> tuple[list[Plot], str]:
    classifier = load_network(record)
    if classifier and dataset is None:
        dataset = load_images(record, classifier, data, announce)
    report = report_run(record, classifier, dataset)
    page = _render("run.html", title=report.title, report=report, again=again(record), problems=record.problems)
    return list(report.plots.values()), page


def _several(records: list[Record]) -> tuple[list[Plot], str]:
    groups = compare.group(records)
    epochs = {group.name: [record.epochs for record in group.records if record.epochs] for group in groups}
    costs = {
        group.name: [
            (record.accuracy, float(record.summary["train_seconds"]), record.summary["multiply_adds"] / 1e6)
            for record in group.records
            if record.accuracy is not None
        ]
        for group in groups
    }
    plots = [
        *curves.overlay({name: runs for name, runs in epochs.items() if runs}),
        *([curves.pareto({name: points for name, points in costs.items() if points})] if any(costs.values()) else []),
    ]
    figures: dict[str, Any] = {
        "test accuracy": lambda record: record.summary.get("test_accuracy"),
        "with augmentation": lambda record: record.summary.get("test_accuracy_tta"),
        "test loss": lambda record: record.summary.get("test_loss"),
        "training, s": lambda record: record.summary.get("train_seconds"),
        "parameters": lambda record: record.summary.get("parameters"),
        "multiply-adds": lambda record: record.summary.get("multiply_adds"),
    }
    table = [(group, [(name, group.figure(of)) for name, of in figures.items()]) for group in groups]
    page = _render(
        "runs.html",
        title=f"{len(records)} runs, {len(groups)} configurations",
        table=table,
        figures=list(figures),
        fields=list(groups[0].differing),
        tests=compare.tests(groups),
        records=records,
        plots={plot.name: plot for plot in plots},
        problems=[problem for record in records for problem in record.problems],
    )
    return plots, page


def _render(template: str, **context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("dynconv.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["figure"] = _figure
    return environment.get_template(template).render(**context)


def _figure(name: str, found: tuple[float, float | None, int] | None) -> str:
    """A mean and its standard deviation in the unit of the column."""
    if found is None:
        return "-"
    mean, sd, _ = found
    if name in ("test accuracy", "with augmentation"):
        return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}") + " %"
    if name in ("parameters", "multiply-adds"):
        return f"{mean / 1e6:.2f} M"
    digits = 0 if name == "training, s" else 4
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
