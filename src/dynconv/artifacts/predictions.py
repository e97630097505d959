"""predictions.npz: a run's predictions for each test image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynconv.artifacts.files import write_atomically
from dynconv.data import numpy_file
from dynconv.data.dataset import DataError
from dynconv.errors import DynconvError, escaped
from dynconv.validation import check_class_names


@dataclass(frozen=True)
class Predictions:
    """For N test images: labels int64 [N], probabilities float32 [N, classes], class names, name of the data set."""

    labels: Tensor
    probabilities: Tensor
    classes: tuple[str, ...]
    data_name: str


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the file atomically. Raises DynconvError if it cannot be written."""
    content = io.BytesIO()  # on a full disk, numpy 2.0's zip file would print a traceback when it is collected
    np.savez_compressed(
        content,
        labels=predictions.labels.numpy(),
        probabilities=predictions.probabilities.numpy().astype(np.float32),
        classes=np.array(predictions.classes),
        data=np.array(predictions.data_name),
    )
    write_atomically(path, lambda file: file.write_bytes(content.getbuffer()))


def read_predictions(path: Path, advice: str) -> Predictions:
    """Reads what `write_predictions` wrote. Raises DynconvError, with `advice`, if it is missing or damaged."""
    try:
        arrays = numpy_file.load_archive(path, ("labels", "probabilities", "classes", "data"), f"{numpy_file.NUMBERS}U")
        whole_numbers = arrays["labels"].dtype.kind in "iu"
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
        probabilities = torch.from_numpy(arrays["probabilities"].astype(np.float32))
        classes, data_name = tuple(map(str, arrays["classes"])), str(arrays["data"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DynconvError(f"{path}: missing or damaged; {advice}") from error
    check_class_names(classes, str(path))
    whole = labels.dim() == 1 and len(labels) > 0 and probabilities.shape == (len(labels), len(classes))
    if not whole or int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise DynconvError(f"{path}: labels, probabilities and classes do not fit together")
    if not whole_numbers or not probabilities.isfinite().all():
        raise DynconvError(f"{path}: damaged: labels must be whole numbers, probabilities must be finite")
    return Predictions(labels, probabilities, classes, escaped(data_name))
