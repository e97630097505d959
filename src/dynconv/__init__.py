"""A reference CIFAR-10 trainer with dynamic convolutions. The names here load at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynconv.config import RunConfig
    from dynconv.inference.predictor import Classifier
    from dynconv.layer.conv import DynamicConv2d
    from dynconv.model.net import build_net

    __version__: str

__all__ = ["Classifier", "DynamicConv2d", "RunConfig", "build_net", "__version__"]

_HOMES = {
    "Classifier": "dynconv.inference.predictor",
    "DynamicConv2d": "dynconv.layer.conv",
    "RunConfig": "dynconv.config",
    "build_net": "dynconv.model.net",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dynconv")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dynconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
