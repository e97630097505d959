"""What is served: a predictor, its name, and the mean routing weights of each class."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dynconv import data
from dynconv.artifacts.found_weights import is_packaged, packaged_weights
from dynconv.errors import DynconvError
from dynconv.export.onnx_predictor import OnnxPredictor
from dynconv.inference import class_routing, explain
from dynconv.inference.predictor import Predictor
from dynconv.inference.trained_data import load_dataset, trained_on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A predictor that is ready to answer.

    Attributes:
        name: name of the run or the weights, without its folder, because local paths are not published.
        class_routing: mean a of each class, [classes, K] for each block; empty if unknown.
    """

    name: str
    predictor: Predictor
    class_routing: list[Tensor]


Backend = Literal["torch", "onnxruntime"]


def load(path: Path, source: str | None, backend: Backend = "torch", max_batch: int = 1) -> Served:
    """Loads a run or weights and runs the network, so that all is compiled and measured before the first request.

    The packaged weights come with their class means. For other networks, the means are measured on the data set if it
    is found; nothing is downloaded.

    Args:
        source: where the data set is; by default the run's own source.
        backend: what computes the probabilities; routing weights are always torch's.
        max_batch: the largest batch that requests will make.

    Raises:
        DynconvError: there is no network at `path`, no data at a given `source`, or onnxruntime is missing.
    """
    predictor = OnnxPredictor.load(path) if backend == "onnxruntime" else Predictor.load(path)
    _warm_up(predictor, max_batch)
    packaged = is_packaged(path)
    means: list[Tensor] = []
    if source is not None:
        means = class_routing.measure(predictor, load_dataset(predictor, source).test)
    elif packaged:
        with contextlib.suppress(DynconvError):
            means = class_routing.load(predictor, class_routing.beside(packaged_weights(str(path))))
    if not means and source is None:
        try:
            if data.at_hand(trained_on(predictor)):
                means = class_routing.measure(predictor, load_dataset(predictor).test)
            else:
                logger.info("no class means: the data set was not found; give its location with --data PATH")
        except DynconvError as error:
            logger.info("no class means: %s", error)
    name = str(path) if packaged else path.resolve().stem if path.is_file() else path.resolve().name
    return Served(name, predictor, means)


def _warm_up(predictor: Predictor, max_batch: int) -> None:
    """Runs a batch of each size for which the fastest algorithms are measured by themselves: powers of two."""
    size = predictor.frame.size
    for exponent in range(max_batch.bit_length()):
        images = torch.zeros(2**exponent, 3, size, size, dtype=torch.uint8)
        predictor.probabilities(images)
        explain.routing_weights(predictor, images)
