"""Inference throughput on the CPU in images per second: eager torch, compiled torch, and ONNX in float32 and int8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynconv.bench.turns import medians
from dynconv.data import shapes
from dynconv.export import export, onnx_file
from dynconv.inference.predictor import Predictor
from dynconv.layer.measured import seconds_of
from dynconv.model.net import Net
from dynconv.model.tta import batched_logits

logger = logging.getLogger(__name__)

LEAST = 64
"""Images that each method classifies per turn, at least, in as many calls as that takes."""


def measure_infer(predictor: Predictor, batch: int, rounds: int) -> dict[str, Any]:
    """Times uint8 images to logits, one at a time and in batches: the median of several rounds after a warm-up round.

    The images, those for quantisation included, are generated; their content does not affect the time.

    Raises:
        DynconvError: the packages for ONNX are not installed.
    """
    onnx_file.need()
    dataset = shapes.generate(0, train_images=export.CALIBRATION, test_images=max(batch, 2))
    methods = _methods(predictor.net, dataset.train.images)
    rates: dict[str, dict[str, float]] = {name: {} for name in methods}
    for size in dict.fromkeys((1, batch)):
        images = dataset.test.images[:size].contiguous()
        parts = [images] * -(-LEAST // size)
        timed = {name: partial(seconds_of, partial(_all, method, parts), 0.0) for name, method in methods.items()}
        for name, seconds in medians(timed, rounds).items():
            rates[name][str(size)] = size * len(parts) / seconds
    return {"images_per_second": rates}


def _all(method: Callable[[Tensor], object], batches: list[Tensor]) -> None:
    for images_NCHW in batches:
        method(images_NCHW)


def _methods(net: Net, images: Tensor) -> dict[str, Callable[[Tensor], object]]:
    methods: dict[str, Callable[[Tensor], object]] = {"torch eager": partial(batched_logits, net)}
    methods["torch eager"](images[:1])  # loads the CPU operator, which must not happen during compilation
    compiled = partial(batched_logits, torch.compile(net, dynamic=False))  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings(action="ignore"):  # the operator could not be compiled either, and warns
            compiled(images[:1])
        methods["torch compiled"] = compiled
    except torch._dynamo.exc.BackendCompilerFailed as error:  # no C++ compiler
        logger.warning("torch compiled: not measured: %s", str(error).strip().splitlines()[0])
    whole = onnx_file.convert(export.trace(net, images, "nchw"))
    methods["onnxruntime float32"] = onnx_file.runner(whole)
    methods["onnxruntime int8"] = onnx_file.runner(onnx_file.quantize(whole, images))
    return methods
