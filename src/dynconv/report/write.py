"""Run directories -> one self-contained HTML page, its plots as PNG and SVG, and a run's epochs as CSV."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynconv.artifacts.files import write_atomically
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.report import curves, history
from dynconv.report.plot import Plot
from dynconv.report.record import RunRecord, read_record
from dynconv.report.run_page import run_page
from dynconv.report.runs_page import runs_page
from dynconv.report.subject import read_subject

PAGE = "report.html"
HISTORY = "metrics.csv"

logger = logging.getLogger(__name__)


def write_report(
    runs: Sequence[Path],
    output: Path | None = None,
    data: str | None = None,
    dataset: Dataset | None = None,
    meanings: Mapping[str, str] | None = None,
) -> Path:
    """Writes report.html and the plots of one run, with metrics.csv, or of several side by side.

    Logs what is missing or damaged.

    Args:
        runs: run directories.
        output: folder for the files; by default report/ in the run, or beside the runs if there are several.
        data: where the images are; by default the run's own source. Only for a single run.
        dataset: the images, if they are already in memory.
        meanings: the help text of each hyper-parameter, by its dotted name, such as "optim.lr".

    Returns:
        the path of the page.

    Raises:
        DynconvError: a path is not a run, a run is named twice, or the folder cannot be written.
    """
    records = _read(runs)
    folder = output or _folder(records)
    if len(records) == 1:
        page, plots = run_page(read_subject(records[0], data, dataset, meanings or {}))
    else:
        page, plots = runs_page(records, folder)
    for problem in (problem for record in records for problem in record.problems):
        logger.warning(problem)
    files = {PAGE: page} | ({HISTORY: history.as_csv(records[0].epochs)} if len(records) == 1 else {})
    _save(plots, folder, files)
    return folder / PAGE


def write_curves(run: Path) -> None:
    """Writes only metrics.csv and the plots over epochs and time, into report/ in the run; no plots without epochs.

    Raises:
        DynconvError: `run` is not a run, or cannot be written.
    """
    record = read_record(run)
    _save(curves.curves(record.epochs, record.title), run / "report", {HISTORY: history.as_csv(record.epochs)})


def _read(runs: Sequence[Path]) -> list[RunRecord]:
    resolved = [run.resolve() for run in runs]
    for run, path in zip(runs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise DynconvError(f"{run}: named twice")
    return [read_record(run) for run in runs]


def _folder(records: list[RunRecord]) -> Path:
    if len(records) == 1:
        return records[0].path / "report"
    return Path(os.path.commonpath([record.path.resolve().parent for record in records])) / "report"


def _save(plots: list[Plot], folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DynconvError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error
    for plot in plots:
        plot.save(folder)
    for name, text in files.items():

        def write(file: Path, text: str = text) -> None:
            file.write_text(text, encoding="utf-8")

        write_atomically(folder / name, write)
