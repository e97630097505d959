"""The run directory and its files. Everything after training reads only this directory.

config.yaml          every hyper-parameter, and the format of the directory (`FORMAT`)
environment.json     versions, processor, threads, git commit, command, source of the data
metrics.jsonl        one record per line, see `records`
weights.safetensors  the final weights, see `weights`
state.pt             everything needed to resume, written every few minutes and after each epoch, see `state`
state-before.pt      the one before it
lock                 who trains the run, while it is being trained, see `lock`
predictions.npz      predictions for the test set, see `predictions`
summary.json         final figures; written last, so its presence means that the run has ended
tensorboard/         event files
report/              the page about the run and its plots, see dynconv.report
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dynconv.artifacts import format_1, yaml_file
from dynconv.artifacts.environment import command_line
from dynconv.artifacts.files import sync, write_text
from dynconv.artifacts.predictions import Predictions, read_predictions, write_predictions
from dynconv.artifacts.records import (
    LINES,
    Config,
    Environment,
    EpochLine,
    Line,
    StepLine,
    Summary,
    WarningLine,
    read_record,
)
from dynconv.artifacts.state import is_saved
from dynconv.errors import DynconvError, escaped

FORMAT = 2


@dataclass(frozen=True)
class Metrics:
    """The content of metrics.jsonl, in order.

    Attributes:
        damaged: an error message for each line that is a record but incomplete or invalid.
    """

    steps: list[StepLine]
    epochs: list[EpochLine]
    warnings: list[WarningLine]
    damaged: list[str]


class RunDir:
    """The directory of one run. Use `create` or `open` to get one."""

    def __init__(self, path: Path, config: Config, launch: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.config = config
        self.weights = path / "weights.safetensors"
        self.state = path / "state.pt"
        self.tensorboard = path / "tensorboard"
        self._launch = launch or {}  # from format 1, which kept it in config.yaml

    @classmethod
    def create(cls, path: Path | None, config: Mapping[str, Any], environment: Environment) -> RunDir:
        """Creates the directory `path`, by default runs/<time>-<preset>-<data>-seed<seed>.

        Args:
            config: every hyper-parameter, as a tree.

        Raises:
            DynconvError: the directory exists and is not empty, or cannot be created. A run is never overwritten.
        """
        record = read_record(Config, config, "config")
        folder = path or Path("runs")
        try:
            if path is None:
                folder = _make_fresh(folder, f"{record.preset}-{environment.data}-seed{record.seed}")
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise DynconvError(
                    f"{folder}: exists and is not empty; choose another --run, or continue it with --resume {folder}"
                )
        except OSError as error:
            raise DynconvError(f"{folder}: cannot be created ({error.strerror}); choose another --run") from error
        run = cls(folder, record)
        text = yaml.safe_dump({"format": FORMAT, **record.tree()}, sort_keys=False)
        write_text(run.path / "config.yaml", f"# data: {escaped(environment.data)}\n{text}")
        write_text(run.path / "environment.json", json.dumps(environment.tree(), indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Opens a run of format 1 or 2.

        Raises:
            DynconvError: `path` is not a run directory, its configuration is damaged, or its format is newer.
        """
        file = path / "config.yaml"
        try:
            tree = yaml_file.read(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DynconvError(f"{path}: not a run directory (no config.yaml); `dynconv runs` lists runs") from error
        except OSError as error:
            raise DynconvError(f"{file}: cannot be read ({error.strerror})") from error
        format_ = tree.pop("format", 1)
        if not tree or not isinstance(format_, int) or format_ < 1:
            raise DynconvError(f"{file}: damaged (it contains no fields)")
        if format_ > FORMAT:
            raise DynconvError(
                f"{path}: a run of format {format_}, newer than this dynconv can read ({FORMAT}); upgrade dynconv"
            )
        tree, launch = format_1.config(tree) if format_ == 1 else (tree, {})
        return cls(path, read_record(Config, tree, f"{file}: damaged, or of another version"), launch)

    @classmethod
    def reopen(cls, path: Path) -> RunDir:
        """Opens a run to continue it. Raises DynconvError as `open` does, and if the run has finished."""
        run = cls.open(path)
        summary = None
        with contextlib.suppress(DynconvError):  # a damaged summary, which the run writes again
            summary = run.summary()
        if summary and summary.finished:
            raise DynconvError(
                f"{path}: this run has finished, so there is nothing to resume; `dynconv train` starts another"
            )
        return run

    def has_begun(self) -> bool:
        """Whether anything may have been trained: false for a run that was killed before its first step."""
        return is_saved(self.state) or (self.path / "metrics.jsonl").exists()

    # ------------------------------------------------------------------------------------------------ metrics

    def append(self, line: Line) -> None:
        """Appends one line to metrics.jsonl. Raises DynconvError if it cannot be written, as on a full disk."""
        file = self.path / "metrics.jsonl"
        content = line.model_dump(mode="json", exclude_none=True)
        try:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(content, allow_nan=False) + "\n")
        except OSError as error:
            raise _cannot_go_on(file, error) from error

    def sync_metrics(self) -> None:
        """Has metrics.jsonl, if there is one yet, outlast a power cut: the state saved next counts on its lines.

        Raises:
            DynconvError: as `append`.
        """
        file = self.path / "metrics.jsonl"
        try:
            if file.exists():
                sync(file)
        except OSError as error:
            raise _cannot_go_on(file, error) from error

    def metrics(self) -> Metrics:
        """The records of metrics.jsonl; an incomplete last line is skipped.

        Raises:
            DynconvError: the file cannot be read, or one of its lines is not a record at all.
        """
        found = Metrics([], [], [], [])
        lists: dict[type[Line], list[Any]] = {
            StepLine: found.steps, EpochLine: found.epochs, WarningLine: found.warnings,
        }  # fmt: skip
        for number, _, content in self._lines():
            kind = LINES.get(content["kind"])
            if kind is None:
                continue
            try:
                lists[kind].append(read_record(kind, content, f"line {number}"))
            except DynconvError as error:
                found.damaged.append(str(error))
        return found

    def rewind(self, step: int, epochs: int, *, within_epoch: bool = False) -> None:
        """Removes what a resumed run writes again: the records of steps after `step`, and the summary.

        Args:
            step, epochs: those done; metrics.jsonl must hold a record of each.
            within_epoch: whether the epoch of `step` goes on, so that its own record goes too, if it was interrupted.

        Raises:
            DynconvError: records are missing or damaged, so the history would be lost; or a file cannot be written.
        """
        file, found = self.path / "metrics.jsonl", self.metrics()
        steps = {line.step for line in found.steps if line.step <= step}
        ended = {line.epoch for line in found.epochs if line.step <= step}
        if len(steps) < step or len(ended) < epochs:
            raise DynconvError(
                f"{file}: holds {len(steps)} of the {step} steps and {len(ended)} of the {epochs} epochs that state.pt "
                "has done; put the whole file back, or start the run again"
            )
        kept = []
        for _, line, content in self._lines():
            if content["step"] <= step:
                kept.append(line)
            if within_epoch and content["kind"] == "step" and content["step"] == step:
                break
        write_text(self.path / "metrics.jsonl", "".join(f"{line}\n" for line in kept))
        summary = self.path / "summary.json"
        try:
            summary.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_go_on(summary, error) from error

    def _lines(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Number, text and content of each line."""
        file = self.path / "metrics.jsonl"
        try:
            lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise DynconvError(f"{file}: damaged, or cannot be read ({_reason(error)})") from error
        for number, line in enumerate(lines, 1):
            where = f"{file}: line {number} is damaged"
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == len(lines):
                    return
                raise DynconvError(where) from error
            read_record(Line, content, where)
            yield number, line, content

    # ------------------------------------------------------------------------- environment, summary, predictions

    @cached_property
    def environment(self) -> Environment:
        """The content of environment.json. Raises DynconvError if it is missing or damaged."""
        file = self.path / "environment.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DynconvError(f"{file}: missing or damaged ({_reason(error)})") from error
        if self._launch and isinstance(content, dict):
            content = {"data_source": self._launch.get("data"), **content}
        return read_record(Environment, content, f"{file}: damaged")

    def write_summary(self, summary: Summary) -> None:
        """Writes summary.json, adding the command."""
        whole = summary.tree() | {"command": command_line()}
        write_text(self.path / "summary.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")

    def summary(self) -> Summary | None:
        """The content of summary.json; None if the run has not ended. Raises DynconvError if it is damaged."""
        file = self.path / "summary.json"
        advice = f"; `dynconv evaluate {self.path}` measures the accuracy again"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DynconvError(f"{file}: cannot be read ({_reason(error)})") from error
        except (ValueError, RecursionError) as error:
            raise DynconvError(f"{file}: damaged{advice}") from error
        return read_record(Summary, content, f"{file}: damaged", advice)

    def write_predictions(self, predictions: Predictions) -> None:
        """Writes predictions.npz."""
        write_predictions(self.path / "predictions.npz", predictions)

    def predictions(self) -> Predictions:
        """The content of predictions.npz. Raises DynconvError if it is missing or damaged."""
        return read_predictions(self.path / "predictions.npz", f"`dynconv evaluate {self.path}` predicts again")


def _cannot_go_on(file: Path, error: OSError) -> DynconvError:
    """The error that ends training if a record cannot be written."""
    mend = "free some space" if file.parent.exists() else "its folder is gone, bring it back"
    return DynconvError(
        f"{file}: cannot be written ({_reason(error)}); {mend}, then continue with --resume {file.parent}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return error.reason
    return str(getattr(error, "strerror", None) or error)


def _make_fresh(folder: Path, name: str) -> Path:
    """Creates folder/<time>-<name>, with a number added if another process has just created that."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    path, suffix = folder / f"{stamp}-{name}", 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            suffix += 1
            path = folder / f"{stamp}-{name}-{suffix}"
        else:
            return path
