"""Many images -> their classes, batch by batch; images that cannot be read do not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.inference.files import Reader
from dynconv.inference.predictor import Prediction, Predictor

_AT_ONCE = 250  # images that are read while the network computes as many


@dataclass(frozen=True)
class Outcome:
    """Of one image: either its prediction, or why there is none."""

    source: str
    prediction: Prediction | None
    error: str | None


def predict(predictor: Predictor, sources: Sequence[str], *, top: int, tta: bool) -> Iterator[Outcome]:
    """The outcomes in the order of the sources. Threads read the next batch while the network computes this one."""
    with Reader(predictor.frame) as reader:
        reading = [reader.submit(source) for source in sources[:_AT_ONCE]]
        for start in range(0, len(sources), _AT_ONCE):
            middle, end = start + _AT_ONCE, start + 2 * _AT_ONCE
            read = [future.result() for future in reading]
            reading = [reader.submit(source) for source in sources[middle:end]]
            pixels = [image for image in read if isinstance(image, Tensor)]
            ranked = iter(
                predictor.ranked(predictor.probabilities(torch.stack(pixels), tta=tta), top) if pixels else ()
            )
            for source, image in zip(sources[start:middle], read, strict=True):
                if isinstance(image, str):
                    yield Outcome(source, None, image)
                else:
                    yield Outcome(source, next(ranked), None)
