"""Dynamic convolution for image classification: the layer, the network, its training. Names load lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynconv.api import Run, figures, train
    from dynconv.errors import DynconvError
    from dynconv.inference.predictor import Predictor
    from dynconv.layer.conv import DynamicConv1d, DynamicConv2d, DynamicConv3d
    from dynconv.layer.convert import convert, fold_batchnorm
    from dynconv.layer.count import count
    from dynconv.model.config import ModelConfig
    from dynconv.model.net import Net
    from dynconv.training.config import TrainConfig

    __version__: str

__all__ = [
    "DynamicConv1d",
    "DynamicConv2d",
    "DynamicConv3d",
    "convert",
    "count",
    "fold_batchnorm",
    "Net",
    "ModelConfig",
    "Predictor",
    "train",
    "Run",
    "figures",
    "TrainConfig",
    "DynconvError",
    "__version__",
]

_HOMES = {
    "DynamicConv1d": "dynconv.layer.conv",
    "DynamicConv2d": "dynconv.layer.conv",
    "DynamicConv3d": "dynconv.layer.conv",
    "convert": "dynconv.layer.convert",
    "count": "dynconv.layer.count",
    "fold_batchnorm": "dynconv.layer.convert",
    "Net": "dynconv.model.net",
    "ModelConfig": "dynconv.model.config",
    "Predictor": "dynconv.inference.predictor",
    "train": "dynconv.api",
    "Run": "dynconv.api",
    "figures": "dynconv.api",
    "TrainConfig": "dynconv.training.config",
    "DynconvError": "dynconv.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dynconv")
        except PackageNotFoundError:  # running from a source tree that was never installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dynconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
