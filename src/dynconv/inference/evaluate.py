"""A predictor evaluated on labelled images, and its metrics as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch.nn import functional as F

from dynconv.data import Split
from dynconv.inference.metrics import MOST_PAIRS, THRESHOLDS, Metrics
from dynconv.inference.predictor import Predictor


def evaluate(predictor: Predictor, split: Split, tta: bool = False) -> Metrics:
    """Classifies all images of `split`, with or without test-time augmentation."""
    logits, labels = predictor.logits(split.images, tta=tta), split.labels.cpu()
    return Metrics(labels, logits.argmax(1), logits.softmax(1), F.cross_entropy(logits, labels).item())


def as_dict(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """The metrics for JSON. Null: those of test-time augmentation without it, and those of a class without images."""

    def by_class(figures: list[float]) -> dict[str, float | None]:
        known = [None if math.isnan(figure) else figure for figure in figures]
        return dict(zip(classes, known, strict=True))

    figures = {name: get(plain) for name, get in _FIGURES.items()}
    with_tta = {f"{name}_tta": get(tta) if tta else None for name, get in _FIGURES.items()}
    return {
        "images": len(plain.labels),
        **figures,
        **with_tta,
        "per_class": by_class(plain.per_class),
        "confusion": plain.confusion.tolist(),
        "images_per_class": dict(zip(classes, plain.images, strict=True)),
        "precision": by_class(plain.precision),
        "recall": by_class(plain.recall),
        "f1": by_class(plain.f1),
        "confused": [
            {**asdict(pair), "true": classes[pair.true], "predicted": classes[pair.predicted]}
            for pair in plain.pairs(MOST_PAIRS)
        ],
        "thresholds": [asdict(plain.threshold(confidence)) for confidence in THRESHOLDS],
    }


_FIGURES: dict[str, Callable[[Metrics], float | None]] = {
    "accuracy": lambda metrics: metrics.accuracy,
    "loss": lambda metrics: metrics.loss,
    "macro_accuracy": lambda metrics: metrics.macro_accuracy,
    "macro_precision": lambda metrics: metrics.macro_precision,
    "macro_f1": lambda metrics: metrics.macro_f1,
    "top_5": lambda metrics: metrics.top_5,
    "ece": lambda metrics: metrics.calibration_error,
}
"""The figures over all images, by their names in JSON."""
