"""Single images: the most confident mistakes, and the images that the network is least certain of."""

from __future__ import annotations

from torch import Tensor

from dynconv.artifacts.predictions import Predictions
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject
from dynconv.report.thumbnail import Thumbnail, thumbnail

SHOWN = 16
"""Number of images of each kind."""


@section("mistakes", "Mistakes", order=24)
def make(subject: Subject) -> Content | None:
    """Made from the run's predictions and the images; None if either is missing."""
    predictions = subject.record.predictions
    if predictions is None or subject.dataset is None:
        return None
    images = subject.dataset.test.images.cpu()
    mistakes = _thumbnails(predictions, images, confident_mistakes(predictions, SHOWN))
    uncertain = _thumbnails(predictions, images, least_certain(predictions, SHOWN))
    return Content(values={"mistakes": mistakes, "uncertain": uncertain})


def confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Indices of the misclassified images with the most probable predictions, most probable first."""
    confidence_N, predicted_N = predictions.probabilities.max(1)
    wrong = (predicted_N != predictions.labels).nonzero()[:, 0]
    chosen: list[int] = wrong[confidence_N[wrong].argsort(descending=True)][:count].tolist()
    return chosen


def least_certain(predictions: Predictions, count: int) -> list[int]:
    """Indices of the images with the least probable predictions, least probable first."""
    chosen: list[int] = predictions.probabilities.max(1).values.argsort()[:count].tolist()
    return chosen


def _thumbnails(predictions: Predictions, images_NCHW: Tensor, chosen: list[int]) -> list[Thumbnail]:
    found = []
    for index in chosen:
        p_C, label = predictions.probabilities[index], int(predictions.labels[index])
        predicted = int(p_C.argmax())
        lines = (
            f"true: {predictions.classes[label]} {float(p_C[label]):.0%}",
            f"predicted: {predictions.classes[predicted]} {float(p_C[predicted]):.0%}",
        )
        found.append(thumbnail(images_NCHW[index], *lines))
    return found
