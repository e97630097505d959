"""Curves over epochs and over time, for one run and for groups of runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynconv.artifacts.records import EpochLine
from dynconv.report.plot import COLOURS, MARKERS, Plot, draw, legend_below, series

_SPLITS = {
    "train": "training (augmented images)",
    "validation": "validation (held out of training)",
    "test": "test",
}
_QUANTITIES = {"loss": ("cross-entropy (nats)", 1), "accuracy": ("accuracy (%)", 100)}


def curves(epochs: list[EpochLine], title: str) -> list[Plot]:
    """Plots of loss and accuracy over the epochs and over time, and of the schedules. Empty if no epoch has ended."""
    if not epochs:
        return []
    plots = over_epochs([epochs], title)

    def over_time(figure: Figure) -> None:
        for axes, quantity in zip(figure.subplots(1, 2), _QUANTITIES, strict=True):
            _draw_splits(axes, [epochs], quantity, "seconds")
            axes.set(xlabel="time in training steps (s)")
        legend_below(figure, 3)

    plots.append(draw("time", "Loss and accuracy over the time spent in training steps.", over_time, 7.6, 3.4))
    caption = "Learning rates and image size at the end of each epoch."
    plots.append(draw("schedule", caption, _schedule(epochs), 7.6, 3.3))
    return plots


def over_epochs(runs: list[list[EpochLine]], title: str) -> list[Plot]:
    """Plots loss and accuracy over the epochs: of one run, or the mean of several with a band of one sd.

    Args:
        runs: the epoch records of each run; none is empty.
    """
    captions = {
        "loss": "Loss after each epoch. The training loss includes label smoothing and augmentation.",
        "accuracy": "Accuracy after each epoch. Training accuracy is measured on augmented images of the epoch's size.",
    }
    band = f" Mean of {len(runs)} runs, and a band of one standard deviation." if len(runs) > 1 else ""
    plots = []
    for quantity, caption in captions.items():

        def paint(figure: Figure, quantity: str = quantity) -> None:
            axes = figure.add_subplot()
            _draw_splits(axes, runs, quantity, "epoch")
            axes.set(xlabel="epoch", title=title)
            legend_below(figure, 2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

        plots.append(draw(quantity, caption + band, paint, 5, 3.7))
    return plots


def _draw_splits(axes: Axes, runs: list[list[EpochLine]], quantity: str, over: str) -> None:
    label, scale = _QUANTITIES[quantity]
    for index, (split, name) in enumerate(_SPLITS.items()):
        key = f"{split}_{quantity}"
        measured = [[line for line in epochs if getattr(line, key) is not None] for epochs in runs]
        _band(axes, measured, over, key, scale, name, index)
    axes.set_ylabel(label)


def _schedule(epochs: list[EpochLine]) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        rates, sizes = figure.subplots(1, 2)
        numbers = [line.epoch for line in epochs]
        for index, group in enumerate(epochs[0].lr):
            rates.plot(numbers, [line.lr[group] for line in epochs], label=group, **series(index))
        rates.set(xlabel="epoch", ylabel="learning rate", yscale="log")
        rates.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        legend_below(figure, 4)
        sizes.plot(numbers, [line.image_size for line in epochs], drawstyle="steps-mid", **series(0))
        sizes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        sizes.set(xlabel="epoch", ylabel="side of the training images (pixels)")
        for axes in (rates, sizes):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    return paint


def overlay(groups: dict[str, list[list[EpochLine]]]) -> list[Plot]:
    """Plots test loss and accuracy of groups of runs, over epochs and over time: mean, and a band of one sd.

    Args:
        groups: name -> the epoch records of each of its runs.
    """
    plots = []
    for quantity, (label, scale) in _QUANTITIES.items():

        def paint(figure: Figure, quantity: str = quantity, label: str = label, scale: int = scale) -> None:
            panels = figure.subplots(1, 2, sharey=True)
            for axes, over in zip(panels, ("epoch", "seconds"), strict=True):
                for index, (name, runs) in enumerate(groups.items()):
                    _band(axes, runs, over, f"test_{quantity}", scale, f"{name} (n = {len(runs)})", index)
            panels[0].set(xlabel="epoch", ylabel=f"test {label}")
            panels[1].set(xlabel="time in training steps (s)")
            panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            legend_below(figure, 2)

        caption = f"Test {quantity} of each group: mean, and a band of one standard deviation if it has several runs."
        plots.append(draw(f"runs-{quantity}", caption, paint, 7.6, 3.4))
    return plots


def _band(axes: Axes, runs: list[list[EpochLine]], over: str, key: str, scale: int, label: str, index: int) -> None:
    length = min(len(epochs) for epochs in runs)
    if not length:
        return
    x = [sum(getattr(epochs[i], over) for epochs in runs) / len(runs) for i in range(length)]
    values = [[getattr(epochs[i], key) * scale for epochs in runs] for i in range(length)]
    mean = [sum(column) / len(column) for column in values]
    axes.plot(x, mean, label=label, **series(index))
    if len(runs) > 1:
        deviation = [statistics.stdev(column) for column in values]
        low = [centre - sd for centre, sd in zip(mean, deviation, strict=True)]
        high = [centre + sd for centre, sd in zip(mean, deviation, strict=True)]
        axes.fill_between(x, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.2, linewidth=0)


def pareto(points: dict[str, list[tuple[float, float, float]]]) -> Plot:
    """Plots accuracy against cost.

    Args:
        points: group -> (test accuracy 0..1, training seconds, millions of multiply-adds) of each of its runs.
    """

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, column, label in zip(
            panels, (1, 2), ("time in training steps (s)", "multiply-adds per image (millions)"), strict=True
        ):
            for index, (name, runs) in enumerate(points.items()):
                style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
                axes.scatter([run[column] for run in runs], [100 * run[0] for run in runs], s=22, label=name, **style)
            every = sorted((run[column], 100 * run[0]) for runs in points.values() for run in runs)
            axes.step(*zip(*pareto_front(every), strict=True), where="post", color="#999999", linewidth=1, zorder=0)
            axes.set(xlabel=label, xlim=(0, 1.08 * every[-1][0]))
        panels[0].set(ylabel="test accuracy (%)")
        legend_below(figure, 2)

    caption = "Test accuracy against cost, one point per run; the line is the Pareto front."
    return draw("pareto", caption, paint, 7.6, 3.4)


def pareto_front(points: Iterable[tuple[float, float]], *, maximise: bool = True) -> list[tuple[float, float]]:
    """Of points of cost and score, by ascending cost, those whose score no cheaper one equals."""
    front: list[tuple[float, float]] = []
    for cost, score in points:
        if not front or (score > front[-1][1] if maximise else score < front[-1][1]):
            front.append((cost, score))
    return front
