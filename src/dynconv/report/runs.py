"""The runs of a folder in a table."""

from __future__ import annotations

import stat
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError, escaped
from dynconv.report.compare import differing_fields
from dynconv.validation import flat, shown

_COLUMNS = ("preset", "data", "seed", "epochs", "accuracy", "TTA", "time")


def runs_table(folder: Path) -> Table:
    """One row per run, sorted by name; damaged runs are listed as damaged.

    Raises:
        DynconvError: `folder` does not exist or cannot be read.
    """
    try:
        paths = sorted(entry for entry in folder.iterdir() if _may_be_run(entry))
    except FileNotFoundError as error:
        raise DynconvError(f"{folder}: does not exist; name the folder that holds the runs, or train one") from error
    except OSError as error:
        raise DynconvError(
            f"{folder}: cannot be read ({error.strerror}); name the folder that holds the runs"
        ) from error
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        caption="accuracy: on the test set; TTA: with test-time augmentation; time: of training; "
        "differs: hyper-parameters in which runs of one preset differ",
    )  # fmt: skip
    table.add_column("run", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("preset", "data") else "right", no_wrap=True)
    table.add_column("differs", overflow="fold")
    table.add_column("state", overflow="fold", min_width=8)
    runs = {path: _open(path) for path in paths}
    differs = _differences({path: run for path, run in runs.items() if isinstance(run, RunDir)})
    for path, run in runs.items():
        *cells, state = _cells(run) if isinstance(run, RunDir) else ["-"] * len(_COLUMNS) + [run]
        texts = (path.name, *cells, differs.get(path, ""), state)
        table.add_row(*(Text(escaped(text)) for text in texts))  # a name is not markup
    return table


def _may_be_run(path: Path) -> bool:
    """Whether the folder holds a run, or cannot be searched, which `_open` says."""
    try:
        return stat.S_ISREG((path / "config.yaml").stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _open(path: Path) -> RunDir | str:
    """The run, or a description of the damage."""
    try:
        return RunDir.open(path)
    except DynconvError as error:
        return f"damaged: {error}"


def _differences(runs: dict[Path, RunDir]) -> dict[Path, str]:
    """The fields that distinguish each run from others of its preset."""
    found = {}
    for preset in {run.config.preset for run in runs.values()}:
        fields = {path: flat(run.config.tree()) for path, run in runs.items() if run.config.preset == preset}
        names = differing_fields(list(fields.values()))
        for path, own in fields.items():
            found[path] = "; ".join(f"{name} {shown(own[name])}" for name in names if name in own)
    return found


def _cells(run: RunDir) -> list[str]:
    try:
        summary = run.summary()
        if summary is None:
            ended = run.metrics().epochs
            done, data = len(ended), ended[-1].data if ended else "-"
            counted = f"{done}/{run.config.epochs}"
            return [run.config.preset, data, str(run.config.seed), counted, "-", "-", "-", "unfinished"]
        return [
            summary.preset,
            summary.data,
            str(summary.seed),
            f"{summary.epochs}/{summary.epochs_planned}",
            f"{summary.test_accuracy:.2%}",
            "-" if summary.test_accuracy_tta is None else f"{summary.test_accuracy_tta:.2%}",
            f"{summary.train_seconds:.0f} s",
            "finished" if summary.finished else f"stopped: {summary.stopped_by}",
        ]
    except DynconvError as error:
        return ["-"] * len(_COLUMNS) + [f"damaged: {error}"]
