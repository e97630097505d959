"""Accuracy on corrupted images."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor

from dynconv.inference.predictor import Predictor
from dynconv.report.corruptions import CORRUPTIONS
from dynconv.report.plot import COLOURS, Plot, draw, ink, legend_below
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject

CORRUPTED = 500
"""Number of random test images to corrupt."""


@section("corruptions", "Corrupted images", order=26)
def make(subject: Subject) -> Content | None:
    """Runs the network on corrupted images; None without the network or the images."""
    if subject.predictor is None or subject.dataset is None:
        return None
    sample = subject.dataset.test.sample(CORRUPTED)
    images, labels = sample.images.cpu(), sample.labels.cpu()
    clean = float((subject.predictor.logits(images).argmax(1) == labels).float().mean())
    accuracies = robustness(subject.predictor, images, labels)
    return Content([bars(clean, accuracies)], {"images": len(labels)})


def robustness(predictor: Predictor, images_NCHW: Tensor, labels_N: Tensor) -> dict[str, list[float]]:
    """Accuracy 0..1 on corrupted images, for each corruption, from mild to strong."""
    found: dict[str, list[float]] = {}
    for name, (corrupt, strengths, _) in CORRUPTIONS.items():
        logits = [predictor.logits(corrupt(images_NCHW, strength)) for strength in strengths]
        found[name] = [float((each.argmax(1) == labels_N).float().mean()) for each in logits]
    return found


def bars(clean: float, accuracies: dict[str, list[float]]) -> Plot:
    """Plots a group of bars for each corruption, from mild to strong."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for step, shade in enumerate((0.45, 0.7, 1.0)):
            heights = [100 * values[step] for values in accuracies.values()]
            places = [group + 0.27 * (step - 1) for group in range(len(accuracies))]
            bars = axes.bar(places, heights, 0.25, color=COLOURS[0], alpha=shade)
            labels = [f"{CORRUPTIONS[name][1][step]:g}" for name in accuracies]
            axes.bar_label(bars, labels, fontsize=7, color=ink())
        axes.axhline(100 * clean, color=COLOURS[1], linestyle="--", linewidth=1, label=f"uncorrupted: {clean:.1%}")
        axes.set_xticks(range(len(accuracies)), labels=list(accuracies))
        axes.set(ylabel="accuracy (%)", ylim=(0, 109), yticks=range(0, 101, 20))
        legend_below(figure, 1)

    units = "; ".join(f"{name}: {unit}" for name, (_, _, unit) in CORRUPTIONS.items())
    caption = f"Accuracy on corrupted images. The number on each bar is the strength of the corruption ({units})."
    return draw("corruptions", caption, paint, 5.8, 3.6)
