"""What is served: a classifier, its name, and what its routing does on average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dynconv import data
from dynconv.data.image import SIZE
from dynconv.errors import DynconvError
from dynconv.inference import class_routing, explain
from dynconv.inference.evaluate import load_dataset, trained_on
from dynconv.inference.predictor import PACKAGED, Classifier, packaged_weights


@dataclass(frozen=True)
class Served:
    """A classifier that is ready.

    Attributes:
        name: of the run or the weights, without its folder, which is nobody's business.
        class_routing: mean a of each block, [classes, K]; empty where nothing is known of it.
    """

    name: str
    classifier: Classifier
    class_routing: list[Tensor]


def load(path: Path, source: str | None, announce: Callable[[str], None]) -> Served:
    """Loads a run or weights and warms them up, so that the first request finds everything compiled.

    The class means come from the data set where it is to hand, else from beside the package's weights; nothing is
    downloaded for them. Without either, `announce` is told.

    Args:
        source: where the data set is; by default where the run had it from.

    Raises:
        DynconvError: no network there, or no data at a `source` that was given.
    """
    classifier = Classifier.load(path)
    _warm_up(classifier)
    packaged = str(path) in PACKAGED and not path.exists()
    means: list[Tensor] = []
    if source is not None:
        means = class_routing.measure(classifier, load_dataset(classifier, source, announce).test)
    elif packaged:
        with contextlib.suppress(DynconvError):
            means = class_routing.load(classifier, class_routing.beside(packaged_weights(str(path))))
    if not means and source is None and data.at_hand(trained_on(classifier)):
        try:
            means = class_routing.measure(classifier, load_dataset(classifier, announce=announce).test)
        except DynconvError as error:
            announce(f"no class means: {error}")
    elif not means:
        announce("no class means: the data set is not to hand; --data PATH says where it is")
    name = str(path) if packaged else path.resolve().stem if path.is_file() else path.resolve().name
    return Served(name, classifier, means)


def _warm_up(classifier: Classifier) -> None:
    images = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    classifier.probabilities(images)
    explain.routing_weights(classifier, images)
