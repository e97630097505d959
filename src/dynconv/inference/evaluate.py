"""A predictor evaluated on labelled images, and its metrics as JSON and as tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from torch.nn import functional as F

from dynconv import data
from dynconv.data import Dataset, Split
from dynconv.errors import DynconvError
from dynconv.inference.metrics import THRESHOLDS, TOP, Metrics, Pair
from dynconv.inference.predictor import Predictor

WIDEST_CONFUSION = 12
"""With more classes than this, the worst confusions are listed instead of the whole matrix."""
MOST_PAIRS = 10
"""How many confusions are listed."""


def load_dataset(predictor: Predictor, source: str | None = None, *, split: str = "test") -> Dataset:
    """The data set at `source`; by default the one that the predictor was trained on.

    If the predictor comes from a run with a hold-out, the same validation images are held out again. Of a `source` that
    is given, only where another `split` than `test` is wanted and it has no validation images of its own.

    Raises:
        DynconvError: no data there, or its classes differ from the predictor's.
    """
    seed, holdout = (predictor.run.config.seed, predictor.run.config.holdout) if predictor.run else (0, 0)
    given, source = source, source or trained_on(predictor)
    frame = predictor.frame
    dataset = data.load(source, seed=seed, wanted=data.DataConfig(size=frame.size, fit=frame.fit))
    if tuple(dataset.classes) != predictor.classes:
        raise DynconvError(
            f"{source}: its classes are {_list(dataset.classes)}, the network's {_list(predictor.classes)}"
        )
    if given and (split == "test" or dataset.validation):
        return dataset
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
    logits, labels = predictor.logits(split.images, tta=tta), split.labels.cpu()
    return Metrics(labels, logits.argmax(1), logits.softmax(1), F.cross_entropy(logits, labels).item())


def as_dict(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """The metrics for JSON. Null: those of test-time augmentation without it, and those of a class without images."""

    def by_class(figures: list[float]) -> dict[str, float | None]:
        known = [None if math.isnan(figure) else figure for figure in figures]
        return dict(zip(classes, known, strict=True))

    figures = {name: get(plain) for name, get in _FIGURES.items()}
    with_tta = {f"{name}_tta": get(tta) if tta else None for name, get in _FIGURES.items()}
    return {
        "images": len(plain.labels),
        **figures,
        **with_tta,
        "per_class": by_class(plain.per_class),
        "confusion": plain.confusion.tolist(),
        "images_per_class": dict(zip(classes, plain.images, strict=True)),
        "precision": by_class(plain.precision),
        "recall": by_class(plain.recall),
        "f1": by_class(plain.f1),
        "confused": [
            {**asdict(pair), "true": classes[pair.true], "predicted": classes[pair.predicted]}
            for pair in plain.pairs(MOST_PAIRS)
        ],
        "thresholds": [asdict(plain.threshold(confidence)) for confidence in THRESHOLDS],
    }


_FIGURES: dict[str, Callable[[Metrics], float | None]] = {
    "accuracy": lambda metrics: metrics.accuracy,
    "loss": lambda metrics: metrics.loss,
    "macro_accuracy": lambda metrics: metrics.macro_accuracy,
    "macro_precision": lambda metrics: metrics.macro_precision,
    "macro_f1": lambda metrics: metrics.macro_f1,
    "top_5": lambda metrics: metrics.top_5,
    "ece": lambda metrics: metrics.calibration_error,
}
"""The figures over all images, by their names in JSON."""


def as_tables(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> RenderableType:
    """The metrics for people: overall, then by class, which classes are confused, and what thresholds would do."""
    lines = [f"accuracy {plain.accuracy:8.2%}   loss {plain.loss:.4f}   ({len(plain.labels)} images)"]
    if tta is not None:
        lines.append(f"with TTA {tta.accuracy:8.2%}   loss {tta.loss:.4f}")
    best = tta or plain
    more = [f"macro accuracy {best.macro_accuracy:.2%}", f"macro F1 {best.macro_f1:.2%}"]
    more += [] if best.top_5 is None else [f"top-{TOP} {best.top_5:.2%}"]
    lines.append("   ".join([*more, f"ECE {best.calibration_error:.2%}"]) + ("   (with TTA)" if tta else ""))
    return Group(*lines, "", _by_class(plain, classes), "", _Confusion(plain, classes), "", _thresholds(plain))


def _by_class(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    """Each class with its figures, and what it is most often mistaken for."""
    table = Table(title="by class", title_justify="left", box=None)
    table.add_column("class")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    table.add_column("most often taken for")
    most: dict[int, Pair] = {}
    for pair in metrics.pairs(len(classes) ** 2):
        most.setdefault(pair.true, pair)
    figures = zip(classes, metrics.images, metrics.precision, metrics.recall, metrics.f1, strict=True)
    for row, (name, images, *shares) in enumerate(figures):
        shown = ["-" if math.isnan(share) else f"{share:.2%}" for share in shares]
        taken_for = f"{classes[most[row].predicted]} ({_times(most[row].count)})" if row in most else ""
        table.add_row(Text(name), str(images), *shown, Text(taken_for))
    return table


@dataclass(frozen=True)
class _Confusion:
    """The confusion matrix, or the commonest confusions where the matrix does not fit."""

    metrics: Metrics
    classes: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        matrix = _matrix(self.metrics, self.classes)
        needed = console.measure(matrix, options=options.update(max_width=sys.maxsize)).maximum
        fits = needed <= options.max_width and len(self.classes) <= WIDEST_CONFUSION
        yield matrix if fits else _pairs(self.metrics, self.classes)


def _matrix(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table(title="true class (row), predicted class (column)", title_justify="left", box=None)
    table.add_column("class")
    for name in classes:
        table.add_column(Text(name[:4]), justify="right", no_wrap=True)
    for name, counts in zip(classes, metrics.confusion.tolist(), strict=True):
        table.add_row(Text(name), *(str(count) if count else "·" for count in counts))
    return table


def _pairs(metrics: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table(title="commonest confusions", title_justify="left", box=None)
    for name in ("true class", "taken for"):
        table.add_column(name)
    for name in ("images", "of its class"):
        table.add_column(name, justify="right")
    for pair in metrics.pairs(MOST_PAIRS):
        names = (Text(classes[pair.true]), Text(classes[pair.predicted]))
        table.add_row(*names, str(pair.count), f"{pair.share:.1%}")
    return table


def _thresholds(metrics: Metrics) -> Table:
    table = Table(title="refusing answers below a confidence", title_justify="left", box=None)
    for name in ("confidence", "answered", "accuracy of these"):
        table.add_column(name, justify="right")
    for each in map(metrics.threshold, THRESHOLDS):
        accuracy = "-" if each.accuracy is None else f"{each.accuracy:.2%}"
        table.add_row(f"{each.confidence:.0%}" if each.confidence else "any", f"{each.coverage:.1%}", accuracy)
    return table


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _list(classes: Any) -> str:
    names = list(classes)
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
