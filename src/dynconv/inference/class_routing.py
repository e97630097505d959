"""The mean routing weights of each class: measured on images, or read from the file beside the package's weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from dynconv.artifacts.files import write_text
from dynconv.data import Split
from dynconv.errors import DynconvError
from dynconv.inference import explain
from dynconv.inference.predictor import Predictor

_SAMPLE = 1000
"""Images, drawn at random, over which the means are taken."""


def measure(predictor: Predictor, split: Split) -> list[Tensor]:
    """Of each block, [classes, K], over up to 1,000 images of `split`; NaN for a class without images."""
    sample = split.sample(_SAMPLE)
    routing = explain.routing_weights(predictor, sample.images)
    return [explain.class_means(a_NK, sample.labels, len(predictor.classes)) for a_NK in routing]


def beside(weights: Path) -> Path:
    """The file that holds the means of a weights file."""
    return weights.with_suffix(".routing.json")


def save(means: list[Tensor], file: Path) -> None:
    """Writes them as JSON, [blocks][classes][K], to five decimals. Raises DynconvError where that is impossible."""
    rounded = [[[round(value, 5) for value in row] for row in mean_CK.tolist()] for mean_CK in means]
    text = json.dumps(rounded) + "\n"
    write_text(file, text)


def load(predictor: Predictor, file: Path) -> list[Tensor]:
    """What `save` wrote. Raises DynconvError where it is missing or damaged, or belongs to another network."""
    model = predictor.model
    try:
        means = [torch.tensor(block, dtype=torch.float32) for block in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DynconvError(f"{file}: missing or damaged") from error
    if [mean.shape for mean in means] != [(len(predictor.classes), k) for k in model.per_block("experts")]:
        raise DynconvError(f"{file}: belongs to another network")
    return means
