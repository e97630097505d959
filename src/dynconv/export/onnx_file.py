"""The content of an ONNX file: converts an exported program, adds metadata, quantises, and runs it in onnxruntime.

Needs the extra `onnx`, which is imported on use; a `DynconvError` says how to install it.
"""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynconv.errors import DynconvError

OPSET = 18


def need() -> None:
    """Raises DynconvError if any of the packages is not installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DynconvError(f"ONNX needs {name}, which is not installed: pip install 'dynconv[onnx]'") from error


def convert(program: torch.export.ExportedProgram) -> bytes:
    """Converts a program with the input `images` to ONNX.

    Its outputs become logits, probabilities and, if it has more, routing_1, routing_2, ..., one for each block.
    """
    need()
    blocks = len(program.graph_signature.user_outputs) - 2
    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["logits", "probabilities", *(f"routing_{block}" for block in range(1, blocks + 1))],
            dynamic_shapes={"images": {0: "batch"}},  # names the axis, which is already free
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # locations in torch's code: three quarters of a small file
    content: bytes = model.SerializeToString()
    return content


def describe(content: bytes, about: dict[str, Any]) -> bytes:
    """The same file with `about` as its metadata. Values that are not text are stored as JSON."""
    import onnx

    model = onnx.load_from_string(content)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    described: bytes = model.SerializeToString()
    return described


def runner(content: bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function images -> the file's outputs; runs onnxruntime on the CPU with as many threads as torch."""
    need()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()}))

    return run


def quantize(content: bytes, images: Tensor) -> bytes:
    """The same network with int8 convolutions: static, per channel, with activation ranges measured on `images`.

    The routers, the head and the first convolution, which is the whitening, stay in float32. Whitening amplifies small
    differences: in int8, it increased the mean error of a probability by a factor of 1.3 (`quick` after two epochs).
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("whole", "prepared", "quantized"))
        whole.write_bytes(content)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        first = next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
        quantization.quantize_static(
            prepared,
            quantized,
            _Batches(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[first],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # 7-bit weights: with 8 bits, sums overflow on processors without VNNI
        )
        return quantized.read_bytes()


class _Batches:
    """Yields the calibration images, with the interface of onnxruntime's CalibrationDataReader."""

    def __init__(self, images: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(images.split(64))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch and onnxruntime, which warn about deprecations in their own code and a missing torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
