"""The curves of a run over its epochs: loss; training, validation and test accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynconv.errors import DynconvError
from dynconv.training.rundir import RunDir

# Okabe and Ito's colours, told apart by the colour-blind; the line styles serve black-and-white print.
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072B2", "linestyle": "-", "marker": "o", "label": "training (augmented images)"},
    "validation": {"color": "#009E73", "linestyle": ":", "marker": "^", "label": "validation (held out of training)"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "s", "label": "validation (test set)"},
}


def plot_curves(run: RunDir) -> list[Path]:
    """Writes loss.png and accuracy.png into the run directory; nothing where no epoch has ended.

    Raises:
        DynconvError: a plot cannot be written.
    """
    epochs = [record for record in run.metrics() if record["kind"] == "epoch"]
    if not epochs:
        return []
    summary = run.summary() or {}
    title = f"{run.config.preset} on {epochs[-1]['data']}, seed {run.config.seed}"
    if summary.get("test_accuracy") is not None:
        title += f": {summary['test_accuracy']:.2%} test accuracy"
    if summary.get("test_accuracy_tta") is not None:
        title += f", {summary['test_accuracy_tta']:.2%} with augmentation"
    paths = []
    for quantity, label, scale in (("loss", "cross-entropy (nats)", 1), ("accuracy", "accuracy (%)", 100)):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        for split, style in _STYLES.items():
            key = f"{split}_{quantity}"
            points = [(record["epoch"], record[key] * scale) for record in epochs if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), markersize=3.5, **style)
        axes.set(xlabel="epoch", ylabel=label, title=title)
        axes.title.set_fontsize(10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        path = run.path / f"{quantity}.png"
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise DynconvError(f"{path}: cannot be written ({error.strerror})") from error
        paths.append(path)
    return paths
