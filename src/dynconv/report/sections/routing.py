"""What the routing does: compared with other routing weights, for each class, over the epochs, and for each expert."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dynconv.artifacts.records import EpochLine
from dynconv.inference import explain
from dynconv.inference.explain import Ablation
from dynconv.model.routing_statistics import BlockRouting, Finding, summarise
from dynconv.report.plot import COLOURS, NUMBERED_CLASSES, Plot, draw, heat_map, ink, legend_below, readable, series
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject

_REMARKS: dict[Finding, str] = {
    "": "",
    "collapsed": "collapsed: one expert for every image",
    "idle": "idle: the same mixture for every image",
    "unused": "an expert is hardly used",
}


@section("routing", "Routing", order=30)
def make(subject: Subject) -> Content:
    """Shows the recorded epochs; with the network and the images, also the rest."""
    model = subject.record.config.model
    experts = max(model.experts)
    values: dict[str, Any] = {
        "experts": experts,
        "experts_text": model.experts_text,
        "routing": subject.routing,
        "usage": [],
    }
    drawn = [routing_over_epochs(subject.record.epochs)] if subject.record.epochs else []
    if routing := subject.routing:
        statistics = summarise(routing.weights)
        values["usage"] = [_usage(block, a_NK) for block, a_NK in zip(statistics, routing.weights, strict=True)]
        means = [explain.class_means(a_NK, routing.sample.labels, len(subject.classes)) for a_NK in routing.weights]
        drawn.append(routing_by_class(means, subject.classes))
        if experts > 1:
            drawn.append(ablation(routing.accuracy, routing.ablations))
    return Content(drawn, values)


def _usage(block: BlockRouting, a_NK: Tensor) -> dict[str, Any]:
    strongest = (torch.bincount(a_NK.argmax(1), minlength=a_NK.shape[1]) / len(a_NK)).tolist()
    return {"block": block, "strongest": strongest, "remark": _REMARKS[block.finding]}


def ablation(accuracy: float, ablations: dict[str, Ablation]) -> Plot:
    """Plots the accuracy with the routing weights replaced."""
    labels = {"mean": "mean", "shuffled": "another image's", "uniform": "uniform, 1/K"}

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
        names = [f"{name}: {value:.1%}" for name, value in zip(["unchanged", *labels.values()], values, strict=True)]
        axes.set_yticks(places, labels=names)
        axes.invert_yaxis()
        axes.set(xlabel="test accuracy (%)", ylabel="routing weights", xlim=(0, 100))

    caption = "Accuracy with every block's routing weights replaced. Error bars: 95 % interval of the change."
    return draw("ablation", caption, paint, 5.4, 2.2)


def routing_by_class(means: Sequence[Tensor], classes: Sequence[str]) -> Plot:
    """Plots the mean routing weight of each expert for each class, one panel per block."""
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
            mesh = heat_map(axes, values, list(classes), experts, limits)
            if len(classes) <= NUMBERED_CLASSES and values.shape[1] <= 4:
                for (row, column), value in np.ndenumerate(values):
                    text = f"{value:.2f}".lstrip("0")
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=readable(mesh, value))
            axes.set(title=f"block {number + 1}", xlabel="expert")
        figure.colorbar(mesh, ax=panels, label="mean routing weight", shrink=0.8)

    height = 0.9 + rows * (0.9 + 0.19 * min(len(classes), 40))
    return draw("routing-classes", "Mean routing weight of each expert on the images of each class.", paint, 8, height)


def routing_over_epochs(epochs: list[EpochLine]) -> Plot:
    """Plots the entropy of the mean weights and their spread over images, for each block."""
    numbers = [line.epoch for line in epochs]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, key, label in zip(
            panels,
            ("entropy", "std"),
            ("entropy of the mean weights (1 = uniform)", "sd of the weights over images"),
            strict=True,
        ):
            for index, block in enumerate(epochs[0].routing):
                values = [getattr(line.routing[index], key) for line in epochs]
                axes.plot(numbers, values, label=f"block {block.block}", **series(index))
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panels[0].set_ylim(-0.03, 1.03)
        legend_below(figure, 6)

    caption = "How evenly the experts are used (entropy), and how much the routing differs between images (sd)."
    return draw("routing-epochs", caption, paint, 7.6, 3.4)
