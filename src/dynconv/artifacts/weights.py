"""The weights file: all that is needed to use a network, `weights.safetensors` of a run. Nothing of it is unpickled.

A safetensors file with a JSON header under the key `dynconv`:

    format      2; see `load_weights` for what is read
    model       the network (ModelConfig)
    classes     names, in the order of the logits
    data        name of the data set that it was trained on
    provenance  where the weights come from, free text for people; no reader looks into it
    version     of dynconv that wrote it

The preprocessing is part of the network (its input transform's buffers), so it is among the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from dynconv.artifacts import format_1
from dynconv.artifacts.files import write_atomically
from dynconv.errors import DynconvError
from dynconv.model.config import ModelConfig
from dynconv.validation import check_class_names

FORMAT = 2


@dataclass(frozen=True)
class Weights:
    """A weights file's content: the network's state and description, class names, data set's name, free provenance."""

    state: Mapping[str, Tensor]
    model: ModelConfig
    classes: tuple[str, ...]
    data_name: str
    provenance: str = ""


def save_weights(path: Path, weights: Weights) -> None:
    """Writes the file, whole or not at all. Raises DynconvError where that is impossible."""
    header = {
        "format": FORMAT,
        "model": weights.model.model_dump(mode="json"),
        "classes": weights.classes,
        "data": weights.data_name,
        "provenance": weights.provenance,
        "input": "RGB, [N, 3, H, W], uint8 or in [0, 1]; standardised and whitened by the network itself",
        "version": version("dynconv"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.state.items()}
    content = save(tensors, {"dynconv": json.dumps(header)})
    write_atomically(path, lambda file: file.write_bytes(content))


def load_weights(path: Path) -> Weights:
    """Reads a file of format 1 or 2.

    Raises:
        DynconvError: the file is missing, truncated, not ours, of a newer format, or its class names cannot be used.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, this is no dict
    except FileNotFoundError as error:
        raise DynconvError(f"{path}: does not exist; name a run directory or a weights file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise DynconvError(f"{path}: truncated, or not a safetensors file ({error})") from error
    try:
        header = json.loads(metadata["dynconv"])
        if header["format"] > FORMAT:
            raise DynconvError(
                f"{path}: written by dynconv {header['version']} in format {header['format']}, newer than this dynconv "
                f"({version('dynconv')}) can read; upgrade dynconv"
            )
        check_class_names(header["classes"], str(path))
        return _READERS[header["format"]](header, state)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["model", *map(str, first["loc"])])
        raise DynconvError(
            f"{path}: describes a network that dynconv {version('dynconv')} does not know ({field}: {first['msg']}); "
            "it may be of a newer version"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DynconvError(f"{path}: not a weights file of dynconv; take the weights.safetensors of a run") from error


def _read_1(header: dict[str, Any], state: dict[str, Tensor]) -> Weights:
    """Format 1 holds the trainer's whole configuration, which becomes the provenance."""
    config = header["config"]
    model = ModelConfig.model_validate(format_1.model(config["model"]))
    provenance = f"trained by dynconv {header.get('version', '?')} with {json.dumps(config)}"
    return Weights(format_1.tensors(state), model, _classes(header), str(header["data"]), provenance)


def _read_2(header: dict[str, Any], state: dict[str, Tensor]) -> Weights:
    model = ModelConfig.model_validate(header["model"])
    return Weights(state, model, _classes(header), str(header["data"]), str(header.get("provenance", "")))


def _classes(header: dict[str, Any]) -> tuple[str, ...]:
    classes = header["classes"]
    if not isinstance(classes, list):
        raise TypeError("classes: not a list")
    return tuple(classes)


_READERS = {1: _read_1, 2: _read_2}
