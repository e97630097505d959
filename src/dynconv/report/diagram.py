"""The network drawn from its model: a row for each block, where the routing happens, the shapes between them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dynconv.model.cost import Row
from dynconv.report.style import COLOURS, Plot, draw, ink

_ROUTING, _EXPERTS, _OTHER = COLOURS[1], COLOURS[0], COLOURS[6]
_LANE = 1.0
"""Height of a block's row, in the units of the drawing; its width is 10."""
_SHOWN = 3
"""Experts drawn one by one; of more, the last is marked as the K-th."""


def diagram(rows: list[Row]) -> Plot:
    """From the rows of `describe`, in their order."""
    blocks = sorted({row.block for row in rows if row.block})
    source = next(row for row in rows if row.part == "input")
    classifier = [row for row in rows if row.part == "classifier"]
    lanes = len(blocks) + 2

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xlim=(0, 10), ylim=(lanes * _LANE, 0))
        axes.set_axis_off()
        _box(axes, 1.2, 0.5, 2.0, 0.5, "image", _OTHER)
        _box(axes, 4.2, 0.5, 2.6, 0.5, f"{source.layer} (fixed)", _OTHER)
        _arrow(axes, (2.2, 0.5), (2.9, 0.5))
        _arrow(axes, (5.5, 0.5), (8.4, 0.5))
        _shape(axes, 0.5, source)
        for lane, number in enumerate(blocks, 1):
            _turn(axes, lane)
            parts = {row.part: row for row in rows if row.block == number}
            _block(axes, number, (lane + 0.5) * _LANE, parts["router"], parts["experts"], parts["other"])
        _turn(axes, lanes - 1)
        y = (lanes - 0.5) * _LANE
        _box(axes, 1.5, y, 2.2, 0.5, "spatial mean f", _OTHER)
        _box(axes, 4.6, y, 2.4, 0.5, "; ".join(row.layer for row in classifier), _OTHER)
        _arrow(axes, (2.6, y), (3.4, y))
        _arrow(axes, (5.8, y), (6.6, y))
        axes.text(6.7, y, f"{classifier[-1].shape[0]} logits", va="center", fontsize=8)

    caption = (
        "The network. In each block the router (orange) takes the spatial mean of the block's own input and predicts "
        "the weights a with which the experts (blue) are combined."
    )
    return draw("architecture", caption, paint, 8, 0.82 * lanes)


def _block(axes: Axes, number: int, y: float, router: Row, experts: Row, other: Row) -> None:
    count = router.shape[0]
    axes.text(0.0, y, f"B{number}", va="center", fontsize=10, fontweight="bold")
    _arrow(axes, (0.45, y), (0.8, y))
    # Above: spatial mean, router, a. Below: the experts. They meet in the sum.
    _box(axes, 1.75, y - 0.25, 1.7, 0.34, f"mean, {router.layer}", _ROUTING, size=6.5)
    axes.plot([0.8, 0.8, 0.9], [y, y - 0.25, y - 0.25], color=ink(), linewidth=0.8)
    _arrow(axes, (2.6, y - 0.25), (4.88, y - 0.1), _ROUTING)
    axes.text(3.4, y - 0.32, f"a: {count} weights", fontsize=6.5, color=_ROUTING, va="center")
    shown = min(count, _SHOWN)
    names = [f"Conv {k + 1}" for k in range(shown)]
    if count > _SHOWN:
        names[-1] = f"... Conv {count}"
    kernel = experts.layer.partition("conv ")[2]
    axes.plot([0.8, 0.8, 0.9], [y, y + 0.25, y + 0.25], color=ink(), linewidth=0.8)
    width = 3.4 / shown
    for k, name in enumerate(names):
        _box(axes, 0.95 + width * (k + 0.5), y + 0.25, width - 0.1, 0.34, f"{name}: {kernel}", _EXPERTS, size=6.5)
    _arrow(axes, (4.35, y + 0.25), (4.88, y + 0.08), _EXPERTS)
    _box(axes, 5.1, y, 0.4, 0.4, "Σ", ink())
    _arrow(axes, (5.3, y), (5.7, y))
    _box(axes, 6.85, y, 2.3, 0.5, other.layer or "nothing", _OTHER, size=6.5)
    _arrow(axes, (8.0, y), (8.4, y))
    _shape(axes, y, other)


def _shape(axes: Axes, y: float, row: Row) -> None:
    axes.text(8.45, y, "×".join(map(str, row.shape)), va="center", fontsize=8)


def _turn(axes: Axes, lane: int) -> None:
    """The line from the end of the row above to the beginning of this one."""
    y = lane * _LANE
    points = [(9.6, y - 0.5), (9.75, y - 0.5), (9.75, y - 0.02), (0.35, y - 0.02), (0.35, y + 0.33)]
    axes.plot(*zip(*points, strict=True), color=ink(), alpha=0.35, linewidth=0.7)


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 8) -> None:
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.06",
        edgecolor=colour, facecolor="none", linewidth=1.2,
    )  # fmt: skip
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=size)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str | None = None) -> None:
    style = {"arrowstyle": "->", "color": colour or ink(), "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
