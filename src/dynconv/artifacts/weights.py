"""The weights file: all that is needed to use a network. `weights.safetensors` of a run.

Weights are safetensors with a JSON header: format version, configuration, class names, data set. The preprocessing is
part of the network (its input transform's buffers), so it is among the weights. Nothing here unpickles what it reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import safetensors
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from dynconv.artifacts.files import write_atomically
from dynconv.config import RunConfig
from dynconv.errors import DynconvError

FORMAT = 1


@dataclass(frozen=True)
class Weights:
    """A weights file's content: the network's state, the configuration that built it, class names, data set."""

    state: dict[str, Tensor]
    config: RunConfig
    classes: tuple[str, ...]
    data_name: str


def save_weights(
    path: Path, net_state: dict[str, Tensor], config: RunConfig, classes: tuple[str, ...], data_name: str
) -> None:
    """Writes the network's state, on the CPU, with all that is needed to use it."""
    header = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "classes": classes,
        "data": data_name,
        "input": "RGB, [N, 3, H, W] in [0, 1]; standardised and whitened by the network itself",
        "version": version("dynconv"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net_state.items()}
    content = save(tensors, {"dynconv": json.dumps(header)})
    write_atomically(path, lambda file: file.write_bytes(content))


def load_weights(path: Path) -> Weights:
    """Reads what `save_weights` wrote.

    Raises:
        DynconvError: the file is missing, truncated, not ours, or of a newer format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, this is no dict
    except (safetensors.SafetensorError, OSError) as error:
        raise DynconvError(f"{path}: missing, truncated or not a safetensors file ({error})") from error
    try:
        header = json.loads(metadata["dynconv"])
        if header["format"] > FORMAT:
            raise DynconvError(f"{path}: written by dynconv {header['version']}, a newer one; upgrade dynconv")
        config = RunConfig.model_validate(header["config"])
        return Weights(state, config, tuple(header["classes"]), str(header["data"]))
    except (KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
        raise DynconvError(f"{path}: not a weights file of dynconv; take the weights.safetensors of a run") from error
