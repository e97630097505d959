"""A plot: how it looks, and how it becomes files and a part of a page.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; line styles and markers serve black-and-white
print. Text and axes are drawn in one marked colour, which the page replaces by that of its own text, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynconv.errors import DynconvError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#B0A000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NUMBERED_CLASSES = 20
"""The most classes whose cells in a heat map hold numbers."""
_SEQUENTIAL = "cividis"  # as bright as large, for the colour-blind too
_WIDE = 6.0  # inches; on a phone, a plot from this width scrolls instead of shrinking until nobody can read it

_INK = "#010203"
_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $a$
    "svg.fonttype": "none",
    "svg.hashsalt": "dynconv",
}


def ink() -> str:
    """The colour of text and outlines."""
    return _INK


def series(index: int) -> dict[str, Any]:
    """Colour, line and marker of the curve number `index`."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3.5,
    }


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, fontsize=8)


def heat_map(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limits: Sequence[float | None]
) -> Any:
    """Values [rows, columns] as colours from limits[0] to limits[1]; NaN has none. Returns what a colour bar takes."""
    places = np.arange(len(columns)), np.arange(len(rows))
    mesh = axes.pcolormesh(*places, values, cmap=_SEQUENTIAL, vmin=limits[0], vmax=limits[1], shading="nearest")
    axes.set_xticks(places[0], labels=columns, rotation=45 if max(map(len, columns)) > 2 else 0, ha="center")
    axes.grid(visible=False)
    axes.set_yticks(places[1], labels=rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return mesh


def readable(mesh: Any, value: float) -> str:
    """Black or white, whichever can be read on the colour of `value`."""
    red, green, blue, _ = mesh.cmap(mesh.norm(value))
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: of its files, without ending.
        caption: what it shows, in a sentence.
        svg, png: the files' content.
        wide: whether it is too wide to be read on a phone without scrolling.
    """

    name: str
    caption: str
    svg: str
    png: bytes
    wide: bool = False

    def save(self, folder: Path) -> None:
        """Writes NAME.png and NAME.svg. Raises DynconvError where that is impossible."""
        try:
            (folder / f"{self.name}.png").write_bytes(self.png)
            (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        except OSError as error:
            raise DynconvError(f"{folder}/{self.name}: cannot be written ({error.strerror})") from error

    @property
    def inline(self) -> Markup:
        """The SVG as a part of a page: in the page's text colour, its identifiers unlike those of other plots."""
        svg = self.svg[self.svg.index("<svg") :].replace(_INK, "currentColor")
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(url\(#|href="#)', rf"\1{self.name}-", svg)
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        label = str(Markup.escape(self.caption))
        return Markup(re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1))


def draw(name: str, caption: str, paint: Callable[[Figure], None], width: float = 6.4, height: float = 3.6) -> Plot:
    """Has `paint` fill a figure of width x height inches, and renders it."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.set_layout_engine("none")  # it is laid out; doing so again would take as long as drawing it
        figure.savefig(png, format="png", dpi=150)
    return Plot(name, caption, svg.getvalue(), png.getvalue(), width > _WIDE)
