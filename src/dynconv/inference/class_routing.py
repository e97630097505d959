"""The mean routing weights of each class: measured on images, or as they come with the package's weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from dynconv.data import Split
from dynconv.errors import DynconvError
from dynconv.inference import explain
from dynconv.inference.predictor import Classifier

_SAMPLE = 1000
"""Images, drawn at random, that the means are taken over."""


def measure(classifier: Classifier, split: Split) -> list[Tensor]:
    """Of each block, [classes, K], over 1,000 images of `split`; NaN for a class without images."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    labels_N = split.labels[order]
    routing = explain.routing_weights(classifier, split.images[order])
    return [explain.class_means(a_NK, labels_N, len(classifier.classes)) for a_NK in routing]


def beside(weights: Path) -> Path:
    """The file that holds the means of a weights file."""
    return weights.with_suffix(".routing.json")


def save(means: list[Tensor], file: Path) -> None:
    """Writes them as JSON, [blocks][classes][K], to five decimals."""
    rounded = [[[round(value, 5) for value in row] for row in mean_CK.tolist()] for mean_CK in means]
    file.write_text(json.dumps(rounded) + "\n")


def load(classifier: Classifier, file: Path) -> list[Tensor]:
    """What `save` wrote. Raises DynconvError where it is missing, damaged or of another network."""
    model = classifier.config.model
    try:
        means = [torch.tensor(block, dtype=torch.float32) for block in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise DynconvError(f"{file}: missing or damaged") from error
    if [mean.shape for mean in means] != [(len(classifier.classes), model.experts)] * len(model.widths):
        raise DynconvError(f"{file}: is of another network")
    return means
