"""A measurement of the layer as tables, a summary in words and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dynconv.bench.layer import BASELINES
from dynconv.layer.algorithms import ALGORITHMS

MODES = ("inference", "training")
_COLOURS = {
    "auto": "#000000", "loop": "#999999", "grouped": "#D55E00", "kernel": "#E69F00", "input": "#56B4E9",
    "output": "#009E73", "unfold": "#F0E442", "winograd": "#0072B2", "fused": "#CC79A7",
    "pixel": "#882255",
}  # fmt: skip


def tables(cells: list[dict[str, Any]]) -> list[Table]:
    """For forward alone, then with gradients: times relative to the static convolution, that of auto in bold."""
    names = (*BASELINES[1:], *ALGORITHMS)
    found = []
    for mode in MODES:
        title = "forward" if mode == "inference" else "forward and backward, and memory"
        table = Table(title=f"{title}; times relative to one static convolution, auto's in bold", title_justify="left")
        table.add_column("shape")
        for name in ("K", "type", "static, ms", *names, *(["static, MiB", "auto, MiB"] if mode == "training" else [])):
            table.add_column(name, justify="right")
        for cell in cells:
            methods = cell["methods"]
            static = methods["static"][f"{mode}_ms"]
            row = [cell["shape"], str(cell["experts"]), cell["dtype"], f"{static:.3g}"]
            for name in names:
                ratio = f"{methods[name][f'{mode}_ms'] / static:.2f}" if name in methods else "-"
                row.append(f"[bold]{ratio}[/]" if name == cell["auto"][mode] else ratio)
            if mode == "training":
                row += [_mebibytes(methods[name]["peak_mib"]) for name in ("static", cell["auto"][mode])]
            table.add_row(*row)
        found.append(table)
    return found


def _mebibytes(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """How good auto's choices are, over all cells and both modes."""
    losses, against_grouped, against_static = [], [], []
    for cell in cells:
        for mode in MODES:
            times = {name: figures[f"{mode}_ms"] for name, figures in cell["methods"].items()}
            auto = times[cell["auto"][mode]]
            losses.append(auto / min(time for name, time in times.items() if name in ALGORITHMS))
            against_grouped.append(auto / times["grouped"])
            against_static.append(auto / times["static"])
    return {
        "comparisons": len(losses),
        "auto_within_5_percent_of_best": sum(loss <= 1.05 for loss in losses) / len(losses),
        "auto_slowest_relative_to_best": max(losses),
        "auto_slowest_relative_to_grouped": max(against_grouped),
        "auto_median_relative_to_static": sorted(against_static)[len(against_static) // 2],
    }


def sentence(found: dict[str, Any]) -> str:
    """The summary for people."""
    return (
        f"auto is within 5 % of the best algorithm in {found['auto_within_5_percent_of_best']:.0%} of "
        f"{found['comparisons']} comparisons (at worst {found['auto_slowest_relative_to_best']:.2f} times its time), "
        f"at most {found['auto_slowest_relative_to_grouped']:.2f} times the grouped form, and in the median "
        f"{found['auto_median_relative_to_static']:.2f} times one static convolution."
    )


def plot(cells: list[dict[str, Any]], path: Path) -> None:
    """Forward and backward relative to one static convolution, by shape; a panel for each K and type."""
    panels = list(dict.fromkeys((cell["experts"], cell["dtype"]) for cell in cells))
    figure = Figure(figsize=(12, 2.6 * len(panels) + 1.6), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    names = list(dict.fromkeys(f"{cell['shape']} ({cell['set']})" for cell in cells))
    for axes, (experts, dtype) in zip(all_axes, panels, strict=True):
        chosen = [cell for cell in cells if (cell["experts"], cell["dtype"]) == (experts, dtype)]
        for method in ("auto", *BASELINES[1:], *ALGORITHMS):
            colour = _COLOURS.get(method, "#444444")  # of an algorithm that was added since
            points = []
            for cell in chosen:
                name = cell["auto"]["training"] if method == "auto" else method
                if name in cell["methods"]:
                    ratio = cell["methods"][name]["training_ms"] / cell["methods"]["static"]["training_ms"]
                    points.append((names.index(f"{cell['shape']} ({cell['set']})"), ratio))
            if points:
                # auto is one of the algorithms: a ring around its point.
                style = {"markersize": 9, "markerfacecolor": "none"} if method == "auto" else {"markersize": 4}
                points_xy = zip(*points, strict=True)
                axes.plot(*points_xy, marker="o", linestyle="none", color=colour, label=method, **style)
        axes.axhline(1, color="#999999", linewidth=0.8)
        axes.set(yscale="log", ylabel="time / static", title=f"K = {experts}, {dtype}")
        axes.set_yticks([0.5, 1, 2, 4, 8, 16], labels=["0.5", "1", "2", "4", "8", "16"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    all_axes[-1].set_xticks(range(len(names)), labels=names, rotation=75, fontsize=7)
    all_axes[0].legend(frameon=False, ncols=8, fontsize=8, loc="upper left")
    figure.suptitle("Forward and backward of a dynamic convolution, relative to one static convolution of its shape")
    figure.savefig(path, dpi=110, format="png")
