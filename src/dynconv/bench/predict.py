"""Images per second from PNG files to classes, and of its two parts, reading and the network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dynconv.bench.turns import medians
from dynconv.data import shapes
from dynconv.inference.files import Reader
from dynconv.inference.predict import predict
from dynconv.inference.predictor import Predictor
from dynconv.layer.measured import seconds_of

IMAGES = 2000


def measure_predict(predictor: Predictor, rounds: int) -> dict[str, Any]:
    """Of `IMAGES` generated images of 32x32 pixels; the median of several rounds, after one to warm up."""
    images = shapes.generate(0, train_images=10, test_images=IMAGES).test.images
    with tempfile.TemporaryDirectory() as folder:
        sources = [str(Path(folder, f"{number:04}.png")) for number in range(IMAGES)]
        for source, image in zip(sources, images, strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(source)

        def read() -> None:
            with Reader(predictor.frame) as reader:
                for image in [reader.submit(source) for source in sources]:
                    image.result()

        parts: dict[str, Callable[[], object]] = {
            "reading PNG files": read,
            "the network": lambda: predictor.logits(images),
            "predict, both": lambda: list(predict(predictor, sources, top=1, tta=False)),
        }
        seconds = medians({name: partial(seconds_of, part, 0.0) for name, part in parts.items()}, rounds)
    rates = {name: IMAGES / taken for name, taken in seconds.items()}
    return {"images": IMAGES, "precision": predictor.precision, "images_per_second": rates}
