"""Training from Python: does what `dynconv train` does, and returns the run as an object."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dynconv.artifacts.records import EpochLine, Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.report.plot import Plot
from dynconv.report.write import handin_figures, write_report
from dynconv.training.config import TrainConfig
from dynconv.training.distributed import joined
from dynconv.training.initial import with_initial_model
from dynconv.training.launch import Launch, start
from dynconv.training.presets import PRESETS, by_field, override
from dynconv.training.progress import Progress
from dynconv.validation import field_descriptions, flat, nested, validate

if TYPE_CHECKING:
    from os import PathLike


def train(
    preset: str = "quick", *, data: str | PathLike[str] = "cifar10", run: str | PathLike[str] | None = None,
    device: str = "auto", compile: bool = False, deterministic: bool = False, log: Sequence[str] = (),
    size: int | str | None = None, fit: str | None = None, **fields: Any,
) -> Run:  # fmt: skip
    """Trains a network and returns its run.

    Args:
        preset: the recipe to start from, as `dynconv presets` lists them: quick, standard, ...
        data: cifar10 or another named data set (found or downloaded), shapes (generated), auto (any that is found, or
            CIFAR-10 by download, else shapes), or a path.
        run: directory to write, new or empty. Default: `runs/<time>-<preset>-<data>-seed<seed>`.
        device: auto, cpu, cuda or mps.
        compile: whether to compile the network with torch.compile.
        deterministic: whether to compute by algorithms that give the same bits each time (`dynconv train --help-all`).
        log: where metrics go besides TensorBoard's event files: "wandb", "mlflow".
        size, fit: how images of any size and shape are read, as --data.size and --data.fit: 64, or auto; crop, pad or
            stretch.
        fields: hyper-parameters, as `dynconv train --help-all` lists them: seed=3, epochs=5, model={"experts": 4}, or
            by dotted names, **{"model.experts": 4}.

    Raises:
        DynconvError: no such preset, field, data or device, or the directory cannot be written.

    Ctrl-C ends the run after the current step; `dynconv train --resume` continues it. Called in each of several
    processes that torchrun or Ray Train has started, they train one network together.
    """
    if preset not in PRESETS:
        raise DynconvError(f"no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    frame = {name: value for name, value in (("size", size), ("fit", fit)) if value is not None}
    fields = nested(fields | ({"data": frame} if frame else {}))
    config = override(with_initial_model(PRESETS[preset](), str(fields.get("init", ""))), fields)
    launch: dict[str, Any] = {"data": str(data), "run": None if run is None else Path(run), "device": device}
    launch |= {"compile": compile, "deterministic": deterministic, "log": log}
    with joined(device) as group, Progress(Console(stderr=True, highlight=False, quiet=not group.leads)) as progress:
        chosen = flat(fields).keys()
        return Run(start(config, validate(Launch, launch), progress, group=group, chosen=chosen).run.path)


class Run:
    """Access to a run directory.

    Attributes:
        path: path of the directory.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens a run. Raises DynconvError if `path` is not a run, or its configuration is damaged."""
        self.path = Path(path)
        self._run = RunDir.open(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Every hyper-parameter, as a tree."""
        return self._run.config.tree()

    @cached_property
    def summary(self) -> Summary:
        """The final figures. Raises DynconvError if the run has not ended."""
        summary = self._run.summary()
        if summary is None:
            raise DynconvError(f"{self.path}: the run has not ended; dynconv train --resume {self.path}")
        return summary

    @property
    def accuracy(self) -> float:
        """The accuracy on the test set, 0..1; with test-time augmentation if the run reports it."""
        return self.summary.best_accuracy

    @property
    def history(self) -> list[EpochLine]:
        """The records of all epochs, in order."""
        return self._run.metrics().epochs

    def table(self) -> dict[str, list[Any]]:
        """The history by column, without learning rates and routing, for `pandas.DataFrame(run.table())`."""
        rows = [line.tree() for line in self.history]
        names = [name for name in EpochLine.model_fields if name not in ("kind", "lr", "routing")]
        return {name: [row[name] for row in rows] for name in names}

    @property
    def weights(self) -> Path:
        """The path of the weights file."""
        return self._run.weights

    def predictor(self, device: str = "auto") -> Predictor:
        """The trained network, ready to use. Raises DynconvError if there are no weights yet."""
        return Predictor.load(self.path, device)

    def report(self, format: str = "html", author: str = "") -> Path:
        """Writes the report on the run as html, pdf, md, tex or ipynb; returns its path.

        Args:
            author: who hands it in, shown below the title with the date; not on the html page.
        """
        meanings = field_descriptions(TrainConfig)
        return write_report([self.path], meanings=meanings, format=format, author=author, presets=by_field())

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def figures(run: Run, *others: Run, data: str | None = None) -> dict[str, Plot]:
    """The figures of the report to hand in, by name; a notebook shows each as an image.

    Args:
        others: further runs, which differ only in their seed.
        data: where the images are; by default where the first run had them.

    Raises:
        DynconvError: the runs differ in more than the seed.
    """
    return handin_figures([each.path for each in (run, *others)], data)
