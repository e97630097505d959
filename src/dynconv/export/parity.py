"""Checks that a file for another runtime computes the same as the network, and measures its accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dynconv.data import Split
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.model.tta import batched_logits

Runner = Callable[[Tensor], tuple[Tensor, ...]]
"""Runs a file: images uint8 [N, 3, H, W] -> logits, probabilities, float32 [N, classes], and, if it has them, the
routing weights of each block, float32 [N, K]."""

BATCHES = (1, 7)
"""Batch sizes at which file and network are compared."""
TOLERANCE = 1e-3
"""Largest accepted difference of a probability, and of a logit or routing weight relative to the largest one."""


def compare(run: Runner, predictor: Predictor, images_NCHW: Tensor, tolerance: float | None = TOLERANCE) -> float:
    """The largest difference of a file's probabilities from the network's in float32, over batches of 1 and 7.

    Raises:
        DynconvError: this difference, or that of a logit or a routing weight, exceeds the tolerance. Never raised if
            `tolerance` is None.
    """
    largest = 0.0
    for size in BATCHES:
        batch = images_NCHW[:size]
        logits, probabilities, *routing = run(batch)
        expected = batched_logits(predictor.net, batch.to(predictor.device)).cpu()
        difference = float((probabilities - expected.softmax(1)).abs().max())
        found = {"probability": difference, "logit": _relative(logits, expected)}
        if routing:
            with torch.no_grad():
                pairs = zip(routing, predictor.net.routing_weights(batch.to(predictor.device)), strict=True)
                found["routing weight"] = max(_relative(given, a_NK.cpu()) for given, a_NK in pairs)
        if tolerance is not None and not all(value <= tolerance for value in found.values()):  # NaN is refused, too
            figures = ", ".join(f"{value:.2g} in a {name}" for name, value in found.items())
            raise DynconvError(
                f"export: the file's outputs are not the network's: they differ by {figures}, "
                f"for {size} images; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))


def accuracy(run: Runner, split: Split) -> float:
    """The share of the images in `split` that a file classifies correctly, 0..1."""
    predicted = torch.cat([run(images)[0].argmax(1) for images in split.images.split(100)])
    return float((predicted == split.labels).double().mean())
