"""Metrics of a predictor on labelled images, and their presentation as JSON and as tables."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.nn import functional as F

from dynconv import data
from dynconv.data import Dataset, Split
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor

WIDEST_CONFUSION = 12
"""With more classes than this, the worst confusions are listed instead of the whole matrix."""


@dataclass(frozen=True)
class Metrics:
    """Results of a predictor on N labelled images.

    Attributes:
        accuracy: share of images classified correctly, 0..1.
        loss: mean cross-entropy in nats, without label smoothing.
        confusion: counts, int64 [classes, classes]: row = true class, column = predicted.
        probabilities: float32 [N, classes].
    """

    accuracy: float
    loss: float
    confusion: Tensor
    probabilities: Tensor

    @property
    def per_class(self) -> list[float]:
        """Accuracy on the images of each class, 0..1; NaN for a class without images."""
        return (self.confusion.diag() / self.confusion.sum(1)).tolist()


def load_dataset(predictor: Predictor, source: str | None = None) -> Dataset:
    """The data set at `source`; by default the one that the predictor was trained on.

    If the predictor comes from a run with a hold-out, the same validation images are held out again.

    Raises:
        DynconvError: no data there, or its classes differ from the predictor's.
    """
    seed, holdout = (predictor.run.config.seed, predictor.run.config.holdout) if predictor.run else (0, 0)
    source = source or trained_on(predictor)
    frame = predictor.frame
    dataset = data.load(source, seed=seed, wanted=data.DataConfig(size=frame.size, fit=frame.fit))
    if tuple(dataset.classes) != predictor.classes:
        raise DynconvError(
            f"{source}: its classes are {_list(dataset.classes)}, the network's {_list(predictor.classes)}"
        )
    return data.hold_out(dataset, holdout, seed) if holdout else dataset


def trained_on(predictor: Predictor) -> str:
    """Location of the data set that `predictor` was trained on, as `data.load` takes it.

    Raises:
        DynconvError: unknown, as a weights file records only the data set's name.
    """
    known = predictor.data_name in data.NAMED
    if predictor.run and (source := predictor.run.environment.data_source):
        return predictor.data_name if source == "auto" and known else source
    if known:
        return predictor.data_name
    raise DynconvError(f"these weights were trained on {predictor.data_name!r}; --data PATH says where its images are")


def choose_split(dataset: Dataset, name: str) -> Split:
    """The split `train`, `test` or `validation`. Raises DynconvError if the run has no hold-out."""
    split: Split | None = getattr(dataset, name)
    if split is None:
        raise DynconvError("split: the run held no validation images out; use test or train")
    return split


def evaluate(predictor: Predictor, split: Split, tta: bool = False) -> Metrics:
    """Classifies all images of `split`, with or without test-time augmentation."""
    logits = predictor.logits(split.images, tta=tta)
    labels = split.labels.cpu()
    classes = len(predictor.classes)
    predicted = logits.argmax(1)
    pairs = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    return Metrics(
        accuracy=(predicted == labels).double().mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
        confusion=pairs.view(classes, classes),
        probabilities=logits.softmax(1),
    )


def as_dict(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """The metrics for JSON; those of test-time augmentation are null without it."""
    return {
        "images": len(plain.probabilities),
        "accuracy": plain.accuracy,
        "accuracy_tta": tta.accuracy if tta else None,
        "loss": plain.loss,
        "loss_tta": tta.loss if tta else None,
        "per_class": dict(zip(classes, plain.per_class, strict=True)),
        "confusion": plain.confusion.tolist(),
    }


def as_tables(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> RenderableType:
    """The metrics for people: overall, then per class with the confusion matrix."""
    lines = [f"accuracy {plain.accuracy:8.2%}   loss {plain.loss:.4f}   ({len(plain.probabilities)} images)"]
    if tta is not None:
        lines.append(f"with TTA {tta.accuracy:8.2%}   loss {tta.loss:.4f}")
    return Group(*lines, "", _ByClass(plain, classes))


@dataclass(frozen=True)
class _ByClass:
    """The confusion matrix with the accuracy of each class, or the worst confusions where the matrix does not fit."""

    metrics: Metrics
    classes: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        matrix = _confusion(self.metrics, self.classes)
        needed = console.measure(matrix, options=options.update(max_width=sys.maxsize)).maximum
        fits = needed <= options.max_width and len(self.classes) <= WIDEST_CONFUSION
        yield matrix if fits else _mistakes(self.metrics, self.classes)


def _confusion(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table(title="true class (row), predicted class (column)", title_justify="left", box=None)
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    for name in classes:
        table.add_column(Text(name[:4]), justify="right", no_wrap=True)
    for name, accuracy, counts in zip(classes, metrics.per_class, metrics.confusion.tolist(), strict=True):
        table.add_row(Text(name), f"{accuracy:.2%}", *(str(count) if count else "·" for count in counts))
    return table


def _mistakes(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    """What each class is most often mistaken for, where the matrix would not fit on a screen."""
    table = Table("class", "accuracy", "most often taken for", title_justify="left", box=None)
    wrong = metrics.confusion - metrics.confusion.diag().diag()
    for row, (name, accuracy) in enumerate(zip(classes, metrics.per_class, strict=True)):
        count, other = (int(value) for value in wrong[row].max(0))
        taken_for = f"{classes[other]} ({count} times)" if count else ""
        table.add_row(Text(name), f"{accuracy:.2%}", Text(taken_for))
    return table


def _list(classes: Any) -> str:
    names = list(classes)
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
