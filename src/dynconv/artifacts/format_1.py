"""Readers of format 1, the format of the first release: they rename its fields to their current names.

Format 1 kept the launch arguments among the hyper-parameters, and the trainer's whole configuration in the weights
file. A reader takes a plain tree and returns one in the current format.
"""

from __future__ import annotations

from typing import Any

_RENAMED = {"activation": "gate", "classifier_hidden": "head_hidden"}
_LAUNCH = ("run", "device", "compile")

_ONE_FOR_ALL = ("experts", "gate", "router_hidden")
"""Fields of the network that were one value for all blocks, and now are a list."""


def config(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hyper-parameters, and the launch arguments that were among them: data, run, device, compile.

    A tree without any of format 1's names is returned unchanged.
    """
    found = dict(tree)
    launch = {name: found.pop(name) for name in _LAUNCH if name in found}
    data = found.pop("data", None)
    if isinstance(data, dict) and not {"source", "holdout"} & data.keys():  # of the current format
        found["data"] = data
    elif isinstance(data, dict):
        if "holdout" in data:
            found["holdout"] = data["holdout"]
        launch["data"] = data.get("source")
    elif data is not None:
        launch["data"] = data
    if isinstance(found.get("model"), dict):
        found["model"] = model(found["model"])
    if isinstance(found.get("optim"), dict):
        found["optim"] = {"head_lr" if name == "classifier_lr" else name: v for name, v in found["optim"].items()}
    return found, launch


def model(tree: dict[str, Any]) -> dict[str, Any]:
    """The fields of the network's description."""
    found = {_RENAMED.get(name, name): value for name, value in tree.items()}
    for name in _ONE_FOR_ALL:
        if isinstance(found.get(name), int | str):
            found[name] = [found[name]]
    return found


def tensors(state: dict[str, Any]) -> dict[str, Any]:
    """A network's state, whose head was called classifier; or an average's, whose names begin with `module.`."""
    return {_tensor(name): value for name, value in state.items()}


def _tensor(name: str) -> str:
    prefix = "module." if name.startswith("module.") else ""
    bare = name.removeprefix(prefix)
    return prefix + ("head." + bare.removeprefix("classifier.") if bare.startswith("classifier.") else bare)
