"""The runs of a folder in a table."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError


def runs_table(folder: Path) -> Table:
    """One row a run, oldest name first; a damaged run is listed as such.

    Raises:
        DynconvError: `folder` does not exist.
    """
    if not folder.is_dir():
        raise DynconvError(f"{folder}: does not exist; name the folder that holds the runs, or train one first")
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="accuracy: of the test set, TTA: augmented; time: training"
    )
    table.add_column("run", overflow="fold")
    for name in ("preset", "data", "seed", "epochs", "accuracy", "TTA", "time"):
        table.add_column(name, justify="left" if name in ("preset", "data") else "right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=8)
    for path in sorted(entry.parent for entry in folder.glob("*/config.yaml")):
        table.add_row(*map(Text, (path.name, *_cells(path))))  # a name is no markup
    return table


def _cells(path: Path) -> list[str]:
    try:
        run = RunDir.open(path)
        summary = run.summary()
        if summary is None:
            ended = [record for record in run.metrics() if record["kind"] == "epoch"]
            done, data = len(ended), ended[-1]["data"] if ended else "-"
            state = "unfinished"
            return [run.config.preset, data, str(run.config.seed), f"{done}/{run.config.epochs}", "-", "-", "-", state]
        tta = summary["test_accuracy_tta"]
        return [
            summary["preset"],
            summary["data"],
            str(summary["seed"]),
            f"{summary['epochs']}/{summary['epochs_planned']}",
            f"{summary['test_accuracy']:.2%}",
            "-" if tta is None else f"{tta:.2%}",
            f"{summary['train_seconds']:.0f} s",
            "finished" if summary["finished"] else f"stopped: {summary['stopped_by']}",
        ]
    except (DynconvError, KeyError, TypeError) as error:
        return ["-"] * 7 + [f"damaged: {error}"]
