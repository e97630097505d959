"""Many images -> their classes, batch by batch, going on past those that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from rich.progress import Progress
from torch import Tensor

from dynconv.data.dataset import DataError
from dynconv.data.image import ENDINGS
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Classifier, Prediction, to_pixels
from dynconv.model.tta import EVAL_BATCH

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Outcome:
    """Of one image: either its prediction, or why there is none."""

    source: str
    prediction: Prediction | None
    error: str | None


def find(words: Sequence[str]) -> list[str]:
    """The images that the words name: files as they are, folders searched for images, sorted, hidden files left out.

    Raises:
        DynconvError: a folder without images, or standard input named twice.
    """
    found: list[str] = []
    for word in words:
        if word == STANDARD_INPUT or not os.path.isdir(word):  # noqa: PTH112 - Path.is_dir() raises on a name that is too long
            found.append(word)
            continue
        folder = Path(word)
        inside = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in ENDINGS
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        )
        if not inside:
            raise DynconvError(f"{folder}: holds no PNG, JPEG or WebP image")
        found += map(str, inside)
    if found.count(STANDARD_INPUT) > 1:
        raise DynconvError("-: standard input holds one image, and can be named once")
    return found


def predict(classifier: Classifier, sources: Sequence[str], *, top: int, tta: bool) -> Iterator[Outcome]:
    """The outcomes in the order of the sources. Threads read the next images while the network has these."""
    with Reader() as reader, _progress(len(sources)) as advance:
        reading = [reader.submit(source) for source in sources[:EVAL_BATCH]]
        for start in range(0, len(sources), EVAL_BATCH):
            middle, end = start + EVAL_BATCH, start + 2 * EVAL_BATCH
            read = [future.result() for future in reading]
            reading = [reader.submit(source) for source in sources[middle:end]]
            pixels = [image for image in read if isinstance(image, Tensor)]
            ranked = iter(
                classifier.ranked(classifier.probabilities(torch.stack(pixels), tta=tta), top) if pixels else ()
            )
            for source, image in zip(sources[start:middle], read, strict=True):
                if isinstance(image, str):
                    yield Outcome(source, None, image)
                else:
                    yield Outcome(source, next(ranked), None)
            advance(len(read))


class Reader:
    """Reads images in the background: photographs several at once, small ones by one thread, since decoding those takes
    less time than handing the interpreter's lock from thread to thread."""

    SMALL = 16 << 10  # bytes of a file

    def __enter__(self) -> Self:
        self._one, self._many = ThreadPoolExecutor(1), ThreadPoolExecutor()
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._one, self._many):
            pool.shutdown(cancel_futures=True)

    def submit(self, source: str) -> Future[Tensor | str]:
        """The pixels, or why there are none."""
        try:
            small = source == STANDARD_INPUT or Path(source).stat().st_size <= self.SMALL
        except (OSError, ValueError):  # what is wrong with the file, reading it tells
            small = True
        return (self._one if small else self._many).submit(_read, source)


def _read(source: str) -> Tensor | str:
    """The pixels, or why there are none."""
    try:
        if source == STANDARD_INPUT:
            return to_pixels(io.BytesIO(sys.stdin.buffer.read()), "standard input")
        return to_pixels(Path(source))
    except DataError as error:
        return str(error)


def copy(outcome: Outcome, folder: Path) -> Path:
    """Copies the image into folder/<class>; where its name is taken, under the name with a number.

    Raises:
        DynconvError: it cannot be written, or is standard input, which has no name.
    """
    if outcome.source == STANDARD_INPUT or outcome.prediction is None:
        raise DynconvError("copy-to: needs image files, standard input has no name")
    source = Path(outcome.source)
    label = re.sub(r"[/\\]|^\.+$", "_", outcome.prediction.label)  # a class name is no path
    target = folder / label / source.name
    number = 1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while target.exists():
            number += 1
            target = target.with_name(f"{source.stem}-{number}{source.suffix}")
        shutil.copy2(source, target)
    except OSError as error:
        raise DynconvError(f"{target}: cannot be written ({error.strerror}); choose another --copy-to") from error
    return target


def writer(form: str, sources: Sequence[str], classes: Sequence[str], top: int) -> Callable[[Outcome], None]:
    """A function that prints an outcome to standard output as a row of a `table`, as `csv` or as a line of `json`."""
    if form == "json":
        return lambda outcome: print(json.dumps(as_dict(outcome)))
    if form == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(
            [
                "image",
                *(f"{what}{n}" for n in range(1, min(top, len(classes)) + 1) for what in ("class", "probability")),
            ]
        )
        return lambda outcome: rows.writerow([outcome.source, *_cells(outcome)]) if outcome.prediction else None
    names, labels = min(max(map(len, sources)), 60), max(map(len, classes))
    return lambda outcome: print(_row(outcome, names, labels)) if outcome.prediction else None


def as_dict(outcome: Outcome) -> dict[str, object]:
    """For JSON."""
    if outcome.prediction is None:
        return {"image": outcome.source, "error": outcome.error}
    top = [{"class": name, "probability": value} for name, value in outcome.prediction.top]
    return {"image": outcome.source, **top[0], "top": top}


def _cells(outcome: Outcome) -> list[str]:
    assert outcome.prediction is not None
    return [cell for name, value in outcome.prediction.top for cell in (name, f"{value:.6f}")]


def _row(outcome: Outcome, names: int, labels: int) -> str:
    assert outcome.prediction is not None
    classes = "   ".join(f"{name:<{labels}} {value:6.1%}" for name, value in outcome.prediction.top)
    return f"{outcome.source:<{names}}   {classes}"


class _progress:
    """A bar on standard error for long lists, where that is a terminal and standard output is not."""

    def __init__(self, total: int) -> None:
        self._bar = Progress(disable=total <= EVAL_BATCH or not sys.stderr.isatty() or sys.stdout.isatty())
        self._task = self._bar.add_task("images", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        return lambda count: self._bar.advance(self._task, count)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
