"""The weights file, `weights.safetensors` of a run: all that is needed to use a network. Reading it never unpickles.

A safetensors file with a JSON header under the key `dynconv`:

    format      2; see `load_weights` for what is read
    model       the network (ModelConfig)
    classes     class names, in the order of the logits
    data        name of the data set that the network was trained on
    frame       what pictures become before the network sees them: size, in pixels, and fit (crop, pad or stretch);
                files of earlier versions have none, and mean 32 and crop
    precision   the precision to compute in: fp32, bf16, fp16, or auto, whichever is fast on the processor
    provenance  where the weights come from, as free text; never parsed
    version     version of dynconv that wrote the file
    checksum    SHA-256 over this header and all tensors, see `_checksum`; files of earlier versions have none

The preprocessing is part of the network (its input transform's buffers), so it is among the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast, get_args

import safetensors
import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from dynconv.artifacts import format_1
from dynconv.artifacts.files import write_atomically
from dynconv.data.frame import Frame
from dynconv.errors import DynconvError, escaped
from dynconv.machine import RequestedPrecision
from dynconv.model.config import ModelConfig
from dynconv.validation import check_class_names

FORMAT = 2


@dataclass(frozen=True)
class Weights:
    """The content of a weights file; see the docstring of this module."""

    state: Mapping[str, Tensor]
    model: ModelConfig
    classes: tuple[str, ...]
    data_name: str
    provenance: str = ""
    precision: RequestedPrecision = "auto"
    frame: Frame = field(default_factory=Frame)


def save_weights(path: Path, weights: Weights) -> None:
    """Writes the file atomically. Raises DynconvError if it cannot be written."""
    header = {
        "format": FORMAT,
        "model": weights.model.model_dump(mode="json"),
        "classes": weights.classes,
        "data": weights.data_name,
        "frame": asdict(weights.frame),
        "precision": weights.precision,
        "provenance": weights.provenance,
        "input": "RGB, [N, 3, H, W], uint8 or in [0, 1]; standardised and whitened by the network itself",
        "version": version("dynconv"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.state.items()}
    header["checksum"] = _checksum(header, tensors)
    content = save(tensors, {"dynconv": json.dumps(header)})
    write_atomically(path, lambda file: file.write_bytes(content))


def load_weights(path: Path) -> Weights:
    """Reads a weights file of format 1 or 2.

    Raises:
        DynconvError: the file is missing, damaged, not written by dynconv, of a newer format, or its class names are
            invalid.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    try:
        header = json.loads(metadata["dynconv"])
        if header["format"] > FORMAT:
            writer, format_ = str(header["version"])[:20], min(header["format"], 10**9)
            raise DynconvError(
                f"{path}: written by dynconv {writer} in format {format_}, newer than this dynconv "
                f"({version('dynconv')}) can read; upgrade dynconv"
            )
        if "checksum" in header and header["checksum"] != _checksum(header, state):
            raise DynconvError(f"{path}: damaged: its content does not match its checksum; copy the file again")
        check_class_names(header["classes"], str(path))
        return _READERS[header["format"]](header, state)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(["model", *map(str, first["loc"])])[:100]
        raise DynconvError(
            f"{path}: describes a network that dynconv {version('dynconv')} does not know ({name}: {first['msg']}); "
            "a newer version may have written it"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DynconvError(f"{path}: not a weights file of dynconv; use the weights.safetensors of a run") from error


def _unreadable(path: Path, error: Exception) -> DynconvError:
    """Why safetensors cannot open the file. It reports a file without permission as one that does not exist."""
    try:
        with path.open("rb"):
            return DynconvError(f"{path}: truncated, or not a safetensors file ({error})")
    except FileNotFoundError:
        return DynconvError(f"{path}: does not exist; name a run directory or a weights file")
    except OSError as reason:
        return DynconvError(f"{path}: cannot be read ({reason.strerror})")


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal over the header's other fields and each tensor's name, type, shape and bytes."""
    fields = {name: value for name, value in header.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_1(header: dict[str, Any], state: dict[str, Tensor]) -> Weights:
    """Format 1 holds the trainer's whole configuration, which becomes the provenance."""
    config = header["config"]
    model = ModelConfig.model_validate(format_1.model(config["model"]))
    provenance = f"trained by dynconv {header.get('version', '?')} with {json.dumps(config)}"
    precision = _precision(config)
    return Weights(format_1.tensors(state), model, _classes(header), _text(header["data"]), provenance, precision)


def _read_2(header: dict[str, Any], state: dict[str, Tensor]) -> Weights:
    model = ModelConfig.model_validate(header["model"])
    provenance = _text(header.get("provenance", ""))
    frame = Frame(**header["frame"]) if "frame" in header else Frame()
    return Weights(state, model, _classes(header), _text(header["data"]), provenance, _precision(header), frame)


def _classes(header: dict[str, Any]) -> tuple[str, ...]:
    return tuple(header["classes"])  # which `load_weights` has checked


def _text(value: object) -> str:
    """Text for people, which a terminal can show."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return escaped(value)


def _precision(fields: dict[str, Any]) -> RequestedPrecision:
    found = fields.get("precision", "auto")
    if found not in get_args(RequestedPrecision):
        raise ValueError(f"precision: {found!r} is none of {', '.join(get_args(RequestedPrecision))}")
    return cast(RequestedPrecision, found)


_READERS = {1: _read_1, 2: _read_2}
