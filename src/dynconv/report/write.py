"""Run directories -> a self-contained HTML page, plots and a run's epochs as CSV, or a report to hand in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dynconv.artifacts.files import write_atomically
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.report import curves, history
from dynconv.report.handin import formats
from dynconv.report.handin.assemble import assemble
from dynconv.report.plot import Plot
from dynconv.report.record import RunRecord, read_record
from dynconv.report.run_page import run_page
from dynconv.report.runs import NO_PRESETS, Presets
from dynconv.report.runs_page import runs_page
from dynconv.report.subject import Subject, read_subject

PAGE = "report.html"
HISTORY = "metrics.csv"

logger = logging.getLogger(__name__)


def write_report(
    runs: Sequence[Path],
    output: Path | None = None,
    data: str | None = None,
    dataset: Dataset | None = None,
    meanings: Mapping[str, str] | None = None,
    format: str = "html",
    author: str = "",
    presets: Presets = NO_PRESETS,
) -> Path:
    """Writes the report on one run, with metrics.csv, or on several. Logs what is missing or damaged.

    Args:
        runs: run directories; reports among them are left out.
        output: folder for the files; by default report/ in the run, or beside the runs if there are several.
        data: where the images are; by default the run's own source. A page about several runs shows no images.
        dataset: the images, if they are already in memory.
        meanings: the help text of each hyper-parameter, by its dotted name, such as "optim.lr".
        format: html, a page and its plots as PNG and SVG, with several runs side by side; or one of
            `handin.formats.FORMATS`, a report to hand in, on runs that differ only in their seed.
        author: who hands the report in; shown with the date.
        presets: the hyper-parameters of each preset: a report to hand in says what differs from them.

    Returns:
        the path of the report.

    Raises:
        DynconvError: a path is not a run, a run is named twice, the folder cannot be written, or the format needs a
            package that is not installed.
    """
    if format != "html":
        formats.need(format)
    records = _read(runs)
    folder = output or _folder(records)
    _make(folder)  # before the work, which takes long
    if format != "html":
        document = assemble(_subjects(records, data, meanings or {}), folder, data, author, presets)
        path = formats.FORMATS[format][0](document, folder)
    else:
        if len(records) == 1:
            page, plots = run_page(read_subject(records[0], data, dataset, meanings or {}))
        else:
            page, plots = runs_page(records, folder)
        files = {PAGE: page} | ({HISTORY: history.as_csv(records[0].epochs)} if len(records) == 1 else {})
        _save(plots, folder, files)
        path = folder / PAGE
    for problem in (problem for record in records for problem in record.problems):
        logger.warning(problem)
    return path


def handin_figures(runs: Sequence[Path], data: str | None = None) -> dict[str, Plot]:
    """The figures of a report to hand in, by name. Raises DynconvError as `write_report` does."""
    return assemble(_subjects(_read(runs), data, {}), Path()).figures


def write_curves(run: Path) -> None:
    """Writes only metrics.csv and the plots over epochs and time, into report/ in the run; no plots without epochs.

    Raises:
        DynconvError: `run` is not a run, or cannot be written.
    """
    record = read_record(run)
    _save(curves.curves(record.epochs, record.title), run / "report", {HISTORY: history.as_csv(record.epochs)})


def _read(runs: Sequence[Path]) -> list[RunRecord]:
    # The report on several runs lies beside them, where runs/* matches it.
    runs = [run for run in runs if not _is_report(run)] or runs
    resolved = [run.resolve() for run in runs]
    for run, path in zip(runs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise DynconvError(f"{run}: named twice")
    return [read_record(run) for run in runs]


def _is_report(folder: Path) -> bool:
    written = (PAGE, *(f"report.{kind}" for kind in formats.FORMATS))
    # os.path.exists never raises, unlike Path.exists where a folder may not be searched.
    return any(os.path.exists(folder / name) for name in written) and not os.path.exists(folder / "config.yaml")  # noqa: PTH110


def _folder(records: list[RunRecord]) -> Path:
    if len(records) == 1:
        return records[0].path / "report"
    return Path(os.path.commonpath([record.path.resolve().parent for record in records])) / "report"


def _subjects(records: list[RunRecord], data: str | None, meanings: Mapping[str, str]) -> list[Subject]:
    """The runs with their networks and images. Images that several runs share are kept in memory once."""
    subjects: list[Subject] = []
    for record in records:
        subject = read_subject(record, data, None, meanings)
        for earlier in subjects:
            if subject.dataset and earlier.dataset and _same_test(subject.dataset, earlier.dataset):
                subject = replace(subject, dataset=earlier.dataset)
                break
        subjects.append(subject)
    return subjects


def _same_test(one: Dataset, other: Dataset) -> bool:
    return torch.equal(one.test.images, other.test.images) and torch.equal(one.test.labels, other.test.labels)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DynconvError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error


def _save(plots: list[Plot], folder: Path, files: Mapping[str, str]) -> None:
    _make(folder)
    for plot in plots:
        plot.save(folder)
    for name, text in files.items():

        def write(file: Path, text: str = text) -> None:
            file.write_text(text, encoding="utf-8")

        write_atomically(folder / name, write)
