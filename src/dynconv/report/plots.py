"""Plots of one run's results and of its routing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn import functional as F

from dynconv.inference.explain import Ablation
from dynconv.model.net import Net
from dynconv.report.corruptions import CORRUPTIONS
from dynconv.report.results import Calibration, Results
from dynconv.report.style import COLOURS, SEQUENTIAL, Plot, draw, ink, series

NUMBERED_CLASSES = 20
"""The most classes whose confusion is written out in numbers."""


def confusion(results: Results) -> Plot:
    """Counts, the diagonal left out of the colours so that the mistakes show."""
    names = [row.name for row in results.rows]
    counts = results.confusion.numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    mistakes = shares.copy()
    np.fill_diagonal(mistakes, np.nan)
    side = min(9.0, 2.2 + 0.42 * len(names))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        mesh = _heat_map(axes, 100 * mistakes, names, names, (0, None))
        if len(names) <= NUMBERED_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                diagonal = row == column
                colour = ink() if diagonal else _readable(mesh, 100 * shares[row, column])
                weight = "bold" if diagonal else "normal"
                axes.text(
                    column, row, str(count), ha="center", va="center", fontsize=7, color=colour, fontweight=weight
                )
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(mesh, ax=axes, label="share of the true class (%)", shrink=0.8)

    return draw("confusion", "Test images by true and predicted class; colour: mistakes.", paint, side + 1, side)


def reliability(before: Calibration, after: Calibration) -> Plot:
    """Accuracy against confidence, before and after temperature scaling."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=ink(), alpha=0.4, linewidth=0.8, label="perfectly calibrated")
        for index, (name, found) in enumerate({"as it is": before, "temperature scaled": after}.items()):
            points = [(100 * confidence, 100 * accuracy) for confidence, accuracy, _ in found.bins]
            label = f"{name}: ECE {100 * found.error:.1f} %"
            axes.plot(*zip(*points, strict=True), label=label, **series(index))
        axes.set(xlabel="confidence: probability of the predicted class (%)", ylabel="accuracy (%)")
        axes.legend()

    return draw("reliability", "Accuracy of the images by the confidence of their prediction.", paint, 4.8, 3.8)


def robustness(clean: float, accuracies: dict[str, list[float]]) -> Plot:
    """A group of bars for each corruption, mild to strong."""

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
        axes.set(ylabel="accuracy (%)", ylim=(0, 118), yticks=range(0, 101, 20))
        axes.legend(loc="upper right")

    units = "; ".join(f"{name}: {unit}" for name, (_, _, unit) in CORRUPTIONS.items())
    return draw(
        "corruptions", f"Accuracy on corrupted images; the number on each bar is its strength ({units}).", paint
    )


def ablation(accuracy: float, ablations: dict[str, Ablation]) -> Plot:
    """Accuracy with the routing replaced."""
    labels = {"mean": "their mean", "shuffled": "another image's", "uniform": "uniform, 1/K"}

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = [accuracy, *(ablations[name].accuracy for name in labels)]
        margins = [0.0, *(ablations[name].margin for name in labels)]
        places = range(len(values))
        colours = [COLOURS[0], *[COLOURS[4]] * len(labels)]
        axes.barh(
            places,
            [100 * value for value in values],
            color=colours,
            xerr=[100 * margin for margin in margins],
            ecolor=ink(),
            capsize=3,
        )
        names = [f"{name}: {value:.1%}" for name, value in zip(["as it is", *labels.values()], values, strict=True)]
        axes.set_yticks(places, labels=names)
        axes.invert_yaxis()
        axes.set(xlabel="test accuracy (%)", ylabel="routing weights", xlim=(0, 100))

    caption = "Accuracy with every block's routing weights replaced; bars: 95 % interval of the loss."
    return draw("ablation", caption, paint, 6.4, 2.3)


def routing_by_class(means: Sequence[Tensor], classes: Sequence[str]) -> Plot:
    """Mean routing weight of each expert on each class, a panel for each block."""
    columns = min(len(means), 6)
    rows = math.ceil(len(means) / columns)
    every = torch.cat([mean_CK.flatten() for mean_CK in means])
    every = every[~every.isnan()]
    limits = float(every.min()), float(every.max())

    def paint(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for number, axes in enumerate(panels.flat):
            if number >= len(means):
                axes.set_axis_off()
                continue
            values = means[number].numpy()
            experts = [str(k + 1) for k in range(values.shape[1])]
            mesh = _heat_map(axes, values, list(classes), experts, limits)
            if len(classes) <= NUMBERED_CLASSES and values.shape[1] <= 4:
                for (row, column), value in np.ndenumerate(values):
                    text = f"{value:.2f}".lstrip("0")
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=_readable(mesh, value))
            axes.set(title=f"block {number + 1}", xlabel="expert")
        figure.colorbar(mesh, ax=panels, label="mean routing weight", shrink=0.8)

    height = 0.9 + rows * (0.9 + 0.19 * min(len(classes), 40))
    return draw("routing-classes", "Mean routing weight of each expert on the images of each class.", paint, 8, height)


def routing_over_epochs(epochs: list[dict[str, Any]]) -> Plot:
    """Entropy of the mean weights and their spread over images, by block."""
    numbers = [record["epoch"] for record in epochs]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, key, label in zip(
            panels,
            ("entropy", "std"),
            ("entropy of the mean weights (1 = uniform)", "sd of the weights over images"),
            strict=True,
        ):
            for index, block in enumerate(epochs[0]["routing"]):
                values = [record["routing"][index][key] for record in epochs]
                axes.plot(numbers, values, label=f"block {block['block']}", **series(index))
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylim(-0.03, 1.03)
        panels[1].legend(fontsize=7)

    caption = "Whether the experts are used alike (entropy), and whether the routing differs between images (sd)."
    return draw("routing-epochs", caption, paint, 7.6, 3.2)


def first_kernels(net: Net, shown: int = 24) -> Plot:
    """The first block's experts as images: what each output channel looks for in the pixels."""
    weight_KOCHW = next(iter(net.backbone)).conv.weight.detach().float().cpu()
    if net.input.whiten:  # through the fixed filters, without their non-linearity, back to pixels
        whitening = net.input.whitening.float().cpu()
        k, o, c, height, width = weight_KOCHW.shape
        pixels = F.conv_transpose2d(weight_KOCHW.flatten(0, 1), whitening).unflatten(0, (k, o))
    else:
        pixels = weight_KOCHW
    tiles = pixels[:, :shown].permute(0, 1, 3, 4, 2)
    limit = tiles.abs().amax((2, 3, 4), keepdim=True).clamp_min(1e-12)
    tiles = 0.5 + 0.5 * tiles / limit
    k, count, height, width, _ = tiles.shape

    def paint(figure: Figure) -> None:
        for row, axes in enumerate(np.atleast_1d(figure.subplots(k, 1))):
            # One pixel of paper between the tiles.
            strip = torch.ones(height, count * (width + 1) - 1, 4)
            strip[..., 3] = 0
            for column in range(count):
                left = column * (width + 1)
                strip[:, left : left + width] = torch.cat((tiles[row, column], torch.ones(height, width, 1)), -1)
            axes.imshow(strip.numpy(), interpolation="nearest")
            axes.set_yticks([height / 2 - 0.5], labels=[f"expert {row + 1}"])
            axes.set_xticks([])
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(False)

    how = "seen through the whitening filters, their non-linearity left out" if net.input.whiten else "in RGB"
    caption = f"Kernels of block 1's experts, the first {count} output channels, {how}; grey is zero."
    return draw("kernels", caption, paint, 8, 0.3 + 0.42 * k)


def _heat_map(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limits: Sequence[float | None]
) -> Any:
    places = np.arange(len(columns)), np.arange(len(rows))
    mesh = axes.pcolormesh(*places, values, cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1], shading="nearest")
    axes.set_xticks(places[0], labels=columns, rotation=45 if max(map(len, columns)) > 2 else 0, ha="center")
    axes.grid(visible=False)
    axes.set_yticks(places[1], labels=rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return mesh


def _readable(mesh: Any, value: float) -> str:
    """Black or white, whichever can be read on the colour of `value`."""
    red, green, blue, _ = mesh.cmap(mesh.norm(value))
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
