"""Rebuilds every table and plot of the docs that studies support, from benchmarks/studies/NAME.jsonl.

    python benchmarks/figures.py

A page names a study where its table stands, and what stands there is replaced:

    <!-- study NAME -->
    <!-- end -->

Between `<!-- selection -->` and `<!-- end -->` stands what all studies say about choosing by the test set.

A study that names curves gets a picture of accuracy against multiply-adds, docs/NAME.png.

Accuracies and losses are those of the last epoch on the hold-out, or on the test set where nothing was held out;
differences are paired by seed, with Student's 95 % interval (docs/protocol.md).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from scipy.stats import t, ttest_rel
from study import STUDIES, Study, signs

from dynconv.report.compare import FEWEST_SEEDS
from dynconv.report.plot import Plot, draw, series
from dynconv.training.config import TrainConfig
from dynconv.training.cost import training_flop
from dynconv.validation import validate

DOCS = Path(__file__).parents[1] / "docs"
PLACE = re.compile(r"(<!-- (?:study (?P<name>[\w-]+)|selection) -->\n).*?(<!-- end -->)", re.DOTALL)
TRAINING_IMAGES, CLASSES = 50_000, 10
MANY = 4
"""Seeds that an arm needs for its best one to be called chosen."""

Line = dict[str, Any]


def last(line: Line, figure: str) -> float:
    """A figure of a run's last epoch."""
    return float(line["epochs"][-1][figure])


def pair(arm: dict[int, Line], reference: dict[int, Line], figure: str) -> tuple[list[float], list[float]]:
    """The figure in both arms, for the seeds that they share."""
    common = sorted(arm.keys() & reference.keys())
    return [last(arm[seed], figure) for seed in common], [last(reference[seed], figure) for seed in common]


def spread(values: list[float], shape: str) -> str:
    """Mean, and sample standard deviation of more than one."""
    mean = format(statistics.mean(values), shape)
    return f"{mean} ± {format(statistics.stdev(values), shape)}" if len(values) > 1 else mean


def difference(arm: dict[int, Line], reference: dict[int, Line], figure: str) -> str:
    """In points, with its interval."""
    ours, theirs = ([100 * value for value in values] for values in pair(arm, reference, figure))
    if not ours:
        return ""
    mean = f"{statistics.mean(ours) - statistics.mean(theirs):+.2f}"
    if len(ours) < FEWEST_SEEDS:
        return mean
    low, high = ttest_rel(ours, theirs).confidence_interval(0.95)
    return f"{mean} ({low:+.2f} to {high:+.2f})"


def row(study: Study, name: str, runs: dict[str, dict[int, Line]]) -> list[str]:
    """One arm of a table."""
    arm, lines = study.arms[name], list(runs[name].values())
    first = lines[0]
    tree = {key: value for key, value in first["config"].items() if key != "format"}
    config = validate(TrainConfig, tree)
    flop = training_flop(config, TRAINING_IMAGES - config.holdout, CLASSES)
    similar = [value for line in lines for value in line["measured"]["cosines"] if value is not None]
    lost = [100 * line["measured"]["lost_with"]["mean"] for line in lines if "lost_with" in line["measured"]]
    compared = name != arm.reference and arm.reference in runs
    images = "validation" if config.holdout else "test"
    return [
        arm.about,
        f"{first['summary']['parameters'] / 1e6:.2f}",
        f"{first['summary']['multiply_adds'] / 1e6:.1f}",
        f"{flop / 1e15:.4f}",
        spread([100 * last(line, f"{images}_accuracy") for line in lines], ".2f"),
        spread([last(line, f"{images}_loss") for line in lines], ".3f"),
        difference(runs[name], runs[arm.reference], f"{images}_accuracy") if compared else "",
        str(len(lines)),
        f"{statistics.mean(similar):.2f}" if similar else "",
        f"{statistics.mean(lost):.1f}" if lost else "",
    ]


HEADINGS = (
    "arm", "parameters, M", "multiply-adds, M", "training PFLOP", "accuracy, %", "loss", "against its reference", "n",
    "cosine of experts", "lost without routing",
)  # fmt: skip


def effects(study: Study) -> list[list[str]]:
    """Per factor of a screening study what its other level adds, with its 95 % interval where runs are left to tell.

    Least squares with a mean of each seed's own: the levels are balanced and independent, so an effect is the
    difference of two means.
    """
    lines = study.lines()
    seeds = sorted({seed for _, seed in lines})
    other = np.array([[level ^ bool(seed % 2) for level in signs(int(arm[-2:]))] for arm, seed in lines], float)
    design = np.hstack([[[seed == each for each in seeds] for _, seed in lines], other[:, : len(study.factors)] - 0.5])
    inverse = np.linalg.pinv(design)
    free = len(lines) - np.linalg.matrix_rank(design)
    rows = []
    for number, factor in enumerate(study.factors, len(seeds)):
        cells = [factor]
        for figure, unit, shape in (("validation_accuracy", 100, "+.2f"), ("validation_loss", 1, "+.3f")):
            values = np.array([unit * last(line, figure) for line in lines.values()])
            found = inverse @ values
            cell = format(found[number], shape)
            if free > 0:
                error = np.sqrt(((values - design @ found) ** 2).sum() / free * (inverse[number] ** 2).sum())
                cell += f" ± {format(t.ppf(0.975, free) * error, shape[1:])}"
            cells.append(cell)
        rows.append(cells)
    return rows


def table(name: str) -> str:
    """The factors of a study that screens them, else the arms that have runs, in the study's order."""
    study = Study(name)
    if study.factors:
        headings = ["factor", "accuracy, points", "loss"]
        return as_table([headings, ["---"] * len(headings), *effects(study)])
    runs = by_arm(study)
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(row(study, arm, runs) for arm in study.arms if arm in runs)]
    return as_table(rows)


def picture(study: Study) -> Plot:
    """Accuracy against the multiply-adds of an image in inference, a curve for each of the study's.

    Where the second curve lies above the first, the region between them is shaded.
    """
    runs = by_arm(study)
    curves = {
        label: [
            (found[0]["summary"]["multiply_adds"] / 1e6, [100 * last(line, "validation_accuracy") for line in found])
            for found in (list(runs[arm].values()) for arm in arms if arm in runs)
        ]
        for label, arms in study.curves.items()
    }

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (label, points) in enumerate(curves.items()):
            means = [statistics.mean(values) for _, values in points]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in points]
            axes.errorbar([cost for cost, _ in points], means, spreads, capsize=2, label=label, **series(number))
        static, dynamic = list(curves.values())[:2]
        costs = np.geomspace(max(static[0][0], dynamic[0][0]), min(static[-1][0], dynamic[-1][0]), 200)
        below, above = (
            np.interp(np.log(costs), np.log([cost for cost, _ in points]), [statistics.mean(v) for _, v in points])
            for points in (static, dynamic)
        )
        axes.fill_between(costs, below, above, where=list(above > below), alpha=0.15, linewidth=0)
        axes.set(xscale="log", xlabel="multiply-adds per image, millions", ylabel="accuracy on the hold-out, %")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()

    caption = f"Accuracy against multiply-adds: {', '.join(curves)}"
    return draw(study.name, caption, paint)


def selection() -> str:
    """What choosing an epoch, or one of several seeds, by the reported accuracy itself adds to it."""
    epochs, seeds = [], []
    for file in sorted(STUDIES.glob("*.jsonl")):
        for runs in by_arm(Study(file.stem)).values():
            curves = [[100 * tested(epoch) for epoch in line["epochs"]] for line in runs.values()]
            epochs += [max(curve) - curve[-1] for curve in curves]
            ends = [curve[-1] for curve in curves]
            seeds += [max(ends) - statistics.mean(ends)] if len(ends) >= MANY else []
    rows = [
        ["the best epoch of a run, instead of the last", str(len(epochs)), *gains(epochs)],
        [f"the best of {MANY} seeds or more, instead of their mean", str(len(seeds)), *gains(seeds)],
    ]
    headings = ["chosen", "cases", "gain, points: mean", "largest"]
    return as_table([headings, ["---"] * len(headings), *rows])


def tested(epoch: dict[str, Any]) -> float:
    """The accuracy on the hold-out, or on the test set where nothing was held out."""
    held_out = epoch["validation_accuracy"]
    return float(epoch["test_accuracy"] if held_out is None else held_out)


def gains(values: list[float]) -> list[str]:
    """Their mean and the largest."""
    return [f"{statistics.mean(values):.2f}", f"{max(values):.2f}"]


def by_arm(study: Study) -> dict[str, dict[int, Line]]:
    """The collected runs by arm, then by seed."""
    runs: dict[str, dict[int, Line]] = {}
    for (arm, seed), line in study.lines().items():
        runs.setdefault(arm, {})[seed] = line
    return runs


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def rebuilt(text: str) -> str:
    """A page with its tables as the runs have them now."""
    return PLACE.sub(lambda place: place[1] + (table(place["name"]) if place["name"] else selection()) + place[3], text)


def main() -> None:
    """Rewrites the pages."""
    for page in sorted(DOCS.glob("*.md")):
        for place in PLACE.finditer(page.read_text(encoding="utf-8")):
            study = Study(place["name"]) if place["name"] else None
            if study and study.curves:
                (DOCS / f"{study.name}.png").write_bytes(picture(study).png)
        page.write_text(rebuilt(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
