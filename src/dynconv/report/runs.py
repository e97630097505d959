"""The runs of a folder: sorted, filtered, and written as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
import logging
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError, escaped
from dynconv.validation import did_you_mean, flat, shown

logger = logging.getLogger(__name__)

FIGURES = (
    "preset", "data", "seed", "epochs", "epochs_planned", "accuracy", "accuracy_tta", "validation_accuracy",
    "test_loss", "train_seconds", "total_seconds", "parameters", "multiply_adds", "device", "precision", "version",
)  # fmt: skip
"""The fields of a row besides its run and its state, as CSV and JSON name them; accuracies are fractions."""

_BEST_FIRST = {"accuracy", "accuracy_tta", "validation_accuracy"}
_NOT_COMPARED = {"preset", "seed"}
_MOST_VALUES = 10  # in a message
_DIFFERS_WIDTH, _LONGEST_NAME = 24, 80

Presets = Mapping[str, Mapping[str, Any]]
"""The hyper-parameters of each preset, by dotted names."""
NO_PRESETS: Presets = MappingProxyType({})
"""Where none are known, nothing differs from them."""


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        state: finished, stopped, unfinished or damaged.
        note: why it is so, if there is anything to say.
        figures: values of `FIGURES`; None where unknown.
        config: hyper-parameters by dotted names; empty if they cannot be read.
        differs: those of them that are not as in the run's preset.
    """

    path: Path
    state: str
    note: str = ""
    figures: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(FIGURES))
    config: dict[str, Any] = field(default_factory=dict)
    differs: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value of a field: run, state, one of `FIGURES`, or a hyper-parameter. None where unknown."""
        if name in ("run", "state"):
            return self.path.name if name == "run" else self.state
        return self.figures[name] if name in FIGURES else self.config.get(name)


def read_runs(folder: Path, presets: Presets) -> list[Row]:
    """The runs of a folder, by name; damaged ones as damaged.

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
    return [_read(path, presets) for path in paths]


def chosen(rows: list[Row], filters: Sequence[str] = (), sort: str | None = None) -> list[Row]:
    """The rows that fit all `filters`, as FIELD=VALUE, by the field `sort`: the best accuracy first, else the lowest.

    Rows without a value for that field come last.

    Raises:
        DynconvError: a filter that is not FIELD=VALUE, or a field that no run has.
    """
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise DynconvError(f"filter: must be FIELD=VALUE, as in data=cifar10, not {text}")
        name, before = _field(name, rows, "filter"), rows
        rows = [row for row in rows if row.get(name) is not None and shown(row.get(name)) == value]
        if before and not rows:
            logger.warning("no run matches %s; %s", text, _values(name, before))
    if sort is None:
        return rows
    name = _field(sort, rows, "sort")
    known = [row for row in rows if row.get(name) is not None]
    numbers = all(isinstance(row.get(name), int | float) for row in known)
    key: Callable[[Row], Any] = (lambda row: row.get(name)) if numbers else (lambda row: shown(row.get(name)))
    return [
        *sorted(known, key=key, reverse=name in _BEST_FIRST),
        *(row for row in rows if row.get(name) is None),
    ]


def _values(name: str, rows: list[Row]) -> str:
    """The values of a field, in words."""
    values = sorted({shown(row.get(name)) for row in rows if row.get(name) is not None})
    some = ", ".join(values[:_MOST_VALUES]) + (", ..." if len(values) > _MOST_VALUES else "")
    return f"{name} is one of: {some}" if values else f"{name} is not known of any"


def _field(name: str, rows: list[Row], option: str) -> str:
    names = dict.fromkeys(["run", "state", *FIGURES, *(each for row in rows for each in row.config)])
    found = name.replace("-", "_")
    if rows and found not in names:
        raise DynconvError(f"{option}: no field {name}{did_you_mean(found, names)}")
    return found


_LEGEND = (
    "accuracy: on the test set; TTA: with test-time augmentation; time: of training; "
    "differs: hyper-parameters that are not the preset's"
)
_COLUMNS = ("preset", "data", "seed", "epochs", "accuracy", "TTA", "time")
_LEFT = ("preset", "data")


def fitting(rows: list[Row], console: Console) -> Table | Group:
    """The runs for people: a table; where its words do not fit beside each other, a list."""
    table = as_table(rows)
    unbounded = console.options.update_width(10_000)  # rich takes what does not fit for as wide as the console
    return table if console.measure(table, options=unbounded).minimum <= console.width else as_list(rows)


def as_list(rows: list[Row]) -> Group:
    """The runs for narrow terminals: below each name the figures, in columns, and what differs."""
    cells = [list(map(escaped, _cells(row))) for row in rows]
    figures = [list(_COLUMNS), *(row[1:-2] for row in cells)]
    widths = [max(map(cell_len, column)) for column in zip(*figures, strict=True)]

    def line(values: list[str], state: str) -> Text:
        gaps = [" " * (width - cell_len(text)) for text, width in zip(values, widths, strict=True)]
        aligned = zip(values, gaps, _COLUMNS, strict=True)
        parts = [text + gap if name in _LEFT else gap + text for text, gap, name in aligned]
        return Text("  ".join([*parts, state]))

    lines: list[Text | Padding] = [Text("run", style="bold"), _indented(line(list(_COLUMNS), "state"))]
    for name, *values, differs, state in cells:
        lines += [Text(), Text(name, style="bold"), _indented(line(values, state))]
        if differs:
            lines.append(_indented(Text(f"differs: {differs}")))
    return Group(*lines, Text(), Text(_LEGEND, style="dim"))


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2), expand=False)


def as_table(rows: list[Row]) -> Table:
    """The runs for people, one row each."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_LEGEND,
    )  # fmt: skip
    longest = max((cell_len(escaped(row.path.name)) for row in rows), default=0)
    table.add_column("run", overflow="fold", min_width=min(longest, _LONGEST_NAME))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    differing = any(row.differs for row in rows)
    table.add_column("differs", overflow="fold", min_width=_DIFFERS_WIDTH if differing else None)
    table.add_column("state", overflow="fold", min_width=len("unfinished"))
    for row in rows:
        table.add_row(*(Text(escaped(text)) for text in _cells(row)))  # a name is not markup
    return table


def _cells(row: Row) -> list[str]:
    get = row.figures.get
    accuracies = ["-" if get(name) is None else f"{get(name):.2%}" for name in ("accuracy", "accuracy_tta")]
    return [
        row.path.name,
        *("-" if get(name) is None else str(get(name)) for name in ("preset", "data", "seed")),
        "-" if get("epochs") is None else f"{get('epochs')}/{get('epochs_planned')}",
        *accuracies,
        "-" if get("train_seconds") is None else f"{get('train_seconds'):.0f} s",
        _differences(row),
        f"{row.state}: {row.note}" if row.note else row.state,
    ]


def _differences(row: Row) -> str:
    return "; ".join(f"{name} {shown(value)}" for name, value in row.differs.items())


def as_csv(rows: list[Row]) -> str:
    """The runs as CSV with a header: figures, what differs, and each hyper-parameter in which any run differs."""
    fields = [name for name in dict.fromkeys(name for row in rows for name in row.differs) if name not in FIGURES]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "state", "note", *FIGURES, "differs", *fields])
    for row in rows:
        settings = [row.config.get(name) for name in fields]
        found = [row.path.name, row.state, row.note, *row.figures.values(), _differences(row), *settings]
        writer.writerow(["" if value is None else shown(value) for value in found])
    return text.getvalue()


def as_json(rows: list[Row]) -> str:
    """The runs as a JSON list of objects, with all their hyper-parameters."""
    return json.dumps([
        {"run": row.path.name, "path": str(row.path.resolve()), "state": row.state, "note": row.note, **row.figures,
         "differs": row.differs, "config": row.config}
        for row in rows
    ])  # fmt: skip


def differing(config: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters, by dotted names, that are not as in the preset; none where that is unknown."""
    return {
        name: value
        for name, value in config.items()
        if name not in _NOT_COMPARED and name in preset and shown(value) != shown(preset[name])
    }


def _may_be_run(path: Path) -> bool:
    """Whether the folder holds a run, or cannot be searched, which `_read` says."""
    try:
        return stat.S_ISREG((path / "config.yaml").stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _read(path: Path, presets: Presets) -> Row:
    try:
        run = RunDir.open(path)
    except DynconvError as error:
        return Row(path, "damaged", str(error))
    try:
        state, note, figures = _figures(run)
    except DynconvError as error:
        state, note, figures = "damaged", str(error), {}
    config = flat(run.config.tree())
    differs = differing(config, presets.get(run.config.preset, {}))
    return Row(path, state, note, dict.fromkeys(FIGURES) | figures, config, differs)


def _figures(run: RunDir) -> tuple[str, str, dict[str, Any]]:
    """State, note and figures. Raises DynconvError if they are damaged."""
    summary = run.summary()
    known = {"preset": run.config.preset, "seed": run.config.seed, "epochs_planned": run.config.epochs}
    if summary is None:
        ended = run.metrics().epochs
        return "unfinished", "", known | {"epochs": len(ended), "data": ended[-1].data if ended else _data_of(run)}
    found = {name: getattr(summary, name) for name in FIGURES if hasattr(summary, name)}
    found |= {"accuracy": summary.test_accuracy, "accuracy_tta": summary.test_accuracy_tta}
    return "finished" if summary.finished else "stopped", summary.stopped_by or "", found


def _data_of(run: RunDir) -> str | None:
    try:
        return run.environment.data
    except DynconvError:
        return None
