"""Draws the network: in each block, the router, the experts side by side, and their weighted sum.

The drawing runs from top to bottom and is narrow enough for a phone screen.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from dynconv.model.cost import Part, Row
from dynconv.report.plot import COLOURS, Plot, draw, ink

_ROUTING, _EXPERTS, _OTHER = COLOURS[1], COLOURS[0], COLOURS[6]
_UNIT = 0.4
"""Inches per unit. The drawing is 10 units wide."""
_END = 1.3
"""Height of the first and of the last row, in units."""
_PITCH = 0.68
"""Distance from one expert to the next, in units."""
_SPLIT = 0.75
"""Where the line with a block's input forks, in units from the left."""
_SHOWN = 3
"""Up to this many experts are all drawn; of more, only the first two and the last."""


def diagram(rows: list[Row]) -> Plot:
    """Draws the rows of `describe`, in their order."""
    blocks = [
        {row.part: row for row in rows if row.block == number} for number in sorted({row.block for row in rows} - {0})
    ]
    shown = [_shown(parts["router"].shape[0]) for parts in blocks]
    heights = [1.7 + _PITCH * len(experts) for experts in shown]
    height = sum(heights) + 2 * _END

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xlim=(0, 10), ylim=(height, 0))
        axes.set_axis_off()
        top = _input(axes, next(row for row in rows if row.part == "input"))
        for number, (parts, experts, own) in enumerate(zip(blocks, shown, heights, strict=True), 1):
            _block(axes, number, top, top + own, parts, experts)
            top += own
        _head(axes, top, [row for row in rows if row.part == "head"])

    caption = (
        "The network. In each block, the router (orange) predicts the routing weights a from the spatial mean of the "
        "block's input. The experts (blue) all see the same input; each output is multiplied by its routing weight, "
        "and their sum is the block's O."
    )
    return draw("architecture", caption, paint, 10 * _UNIT, height * _UNIT)


def _shown(count: int) -> list[int | None]:
    """The numbers of the experts to draw; None stands for those left out."""
    return [*range(1, count + 1)] if count <= _SHOWN else [1, 2, None, count]


def _input(axes: Axes, row: Row) -> float:
    """Draws the first row; returns where the next one begins."""
    _box(axes, 0.3, 0.35, 2.0, ["image"], _OTHER)
    _arrow(axes, (2.3, 0.35), (2.8, 0.35))
    _box(axes, 2.8, 0.35, 5.6, [f"{row.layer} (fixed)"], _OTHER)
    _on_to_the_next(axes, 5.6, 0.58, _END, row)
    return _END


def _block(
    axes: Axes, number: int, top: float, bottom: float, parts: dict[Part, Row], experts: list[int | None]
) -> None:
    """Draws a block, from the fork of its input at `top` to its output at `bottom`."""
    router, first = top + 0.4, top + 1.15
    places = [first + _PITCH * place for place in range(len(experts))]
    middle = (places[0] + places[-1]) / 2
    axes.text(0, top + 0.4, f"B{number}", va="center", fontsize=9, fontweight="bold")
    _line(axes, [(_SPLIT, top), (_SPLIT, places[-1])])
    _arrow(axes, (_SPLIT, router), (1.1, router))
    _box(axes, 1.1, router, 3.7, _lines(f"mean, {parts['router'].layer}", 27), _ROUTING)
    _line(axes, [(4.8, router), (5.2, router), (5.2, places[-1] - 0.3)], _ROUTING)
    kernel = parts["experts"].layer.partition("conv ")[2]
    for expert, y in zip(experts, places, strict=True):
        if expert is None:
            axes.text(2.95, y, "...", ha="center", va="center", fontsize=9)
            continue
        subscript = str(expert).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
        _arrow(axes, (_SPLIT, y), (1.1, y))
        _box(axes, 1.1, y, 3.7, [f"Conv{subscript}: {kernel}"], _EXPERTS)
        _arrow(axes, (4.8, y), (5.83, y), _EXPERTS)
        _arrow(axes, (5.2, y - 0.3), (5.85, y - 0.1), _ROUTING)
        axes.text(5.6, y - 0.31, f"a{subscript}", fontsize=7.5, color=_ROUTING, ha="left", va="center")
        _node(axes, 6.03, y, "×", 0.2)
        _arrow(axes, (6.23, y), (6.92, middle + 0.3 * (y - middle)), _EXPERTS)
    _node(axes, 7.2, middle, "Σ", 0.3)
    extras = _lines(parts["other"].layer or "nothing", 12)
    _arrow(axes, (7.5, middle), (7.9, middle))
    _box(axes, 7.9, middle, 2.05, extras, _OTHER)
    _on_to_the_next(axes, 8.92, middle + _height(extras) / 2, bottom, parts["other"])


def _head(axes: Axes, top: float, head: list[Row]) -> None:
    y = top + 0.55
    _line(axes, [(_SPLIT, top), (_SPLIT, y - 0.21)])
    _box(axes, 0.3, y, 2.9, ["spatial mean f"], _OTHER)
    _arrow(axes, (3.2, y), (3.7, y))
    _box(axes, 3.7, y, 3.7, _lines(", ".join(row.layer for row in head), 27), _OTHER)
    _arrow(axes, (7.4, y), (7.9, y))
    axes.text(8.0, y, f"{head[-1].shape[0]} logits", va="center", fontsize=8)


def _on_to_the_next(axes: Axes, x: float, y: float, bottom: float, row: Row) -> None:
    """Draws a line from (x, y) down and back to the left, where the next row begins, labelled with the data's shape."""
    turn = bottom - 0.2
    _line(axes, [(x, y), (x, turn), (_SPLIT, turn), (_SPLIT, bottom)])
    axes.text(_SPLIT + 0.35, turn - 0.07, "×".join(map(str, row.shape)), va="bottom", fontsize=8)


def _lines(text: str, length: int) -> list[str]:
    """Splits the text into lines of about `length` characters, after commas."""
    lines = [""]
    for part in text.replace(", ", ",\n").split("\n"):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > length:
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def _height(lines: list[str]) -> float:
    return 0.14 + 0.32 * len(lines)


def _box(axes: Axes, left: float, y: float, width: float, lines: list[str], colour: str) -> None:
    height = _height(lines)
    patch = FancyBboxPatch(
        (left, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.08", edgecolor=colour,
        facecolor="none", linewidth=1.2,
    )  # fmt: skip
    axes.add_patch(patch)
    axes.text(left + width / 2, y, "\n".join(lines), ha="center", va="center", fontsize=8, linespacing=1.05)


def _node(axes: Axes, x: float, y: float, text: str, radius: float) -> None:
    axes.add_patch(Circle((x, y), radius, edgecolor=ink(), facecolor="none", linewidth=0.9))
    axes.text(x, y, text, ha="center", va="center", fontsize=8)


def _line(axes: Axes, points: list[tuple[float, float]], colour: str | None = None) -> None:
    axes.plot(*zip(*points, strict=True), color=colour or ink(), linewidth=0.8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str | None = None) -> None:
    style = {
        "arrowstyle": "->", "mutation_scale": 8, "color": colour or ink(), "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0,
    }  # fmt: skip
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
