"""What the page is told about its network, by the server's GET /v1/model as by the exported model.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from torch import Tensor

from dynconv.inference.predictor import Predictor


def about(predictor: Predictor, name: str, class_routing: Sequence[Tensor], drawings: Iterable[str]) -> dict[str, Any]:
    """For JSON.

    Args:
        name: the weights', for people.
        class_routing: mean routing weights by class, [classes, K] for each block, NaN for a class without images; empty
            if unknown.
        drawings: the classes that have a sample image.
    """
    return {
        "name": name,
        "version": version("dynconv"),
        "data": predictor.data_name,
        "classes": list(predictor.classes),
        "blocks": len(predictor.model.widths),
        "experts": list(predictor.model.per_block("experts")),
        "class_routing": [
            [[None if value != value else round(value, 5) for value in row] for row in mean_CK.tolist()]
            for mean_CK in class_routing
        ],
        "samples": list(drawings),
    }
