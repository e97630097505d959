"""The data set that a network was trained on, or another one with its classes, read as the network reads pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dynconv import data
from dynconv.data import Dataset, Split
from dynconv.data.checksum import checksums
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor

logger = logging.getLogger(__name__)


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
    dataset = data.hold_out(dataset, holdout, seed) if holdout else dataset
    before = predictor.run.environment.data_checksums if predictor.run and not given else {}
    if before and before != checksums(dataset):
        logger.warning(
            "%s: images have changed since the run began, so some test images may have been trained on; or another "
            "version of Pillow reads them", dataset.origin,
        )  # fmt: skip
    return dataset


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


def _list(classes: Iterable[str]) -> str:
    names = list(classes)
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
