"""Plots: their style, and how they become files and parts of a page.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; line styles and markers make plots
readable in black and white. Text and axes are drawn in one placeholder colour, which the page replaces by its text
colour, light or dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dynconv.artifacts.files import write_atomically, write_text
from dynconv.report import fonts

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#B0A000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NUMBERED_CLASSES = 20
"""With more classes than this, the cells of a heat map hold no numbers."""
_SEQUENTIAL = "cividis"  # larger is brighter; suitable for colour-blind readers
_WIDE = 6.0  # inches; on a phone, a wider plot scrolls instead of shrinking until it is unreadable

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
    "pdf.fonttype": 42,  # TrueType: text can be searched, and every printer takes it
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
    """Draws values [rows, columns] as colours from limits[0] to limits[1]; NaN stays blank. Returns the mappable."""
    places = np.arange(len(columns)), np.arange(len(rows))
    mesh = axes.pcolormesh(*places, values, cmap=_SEQUENTIAL, vmin=limits[0], vmax=limits[1], shading="nearest")
    axes.set_xticks(places[0], labels=columns, rotation=45 if max(map(len, columns)) > 2 else 0, ha="center")
    axes.grid(visible=False)
    axes.set_yticks(places[1], labels=rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return mesh


def readable(mesh: Any, value: float) -> str:
    """Black or white, whichever is readable on the colour of `value`."""
    red, green, blue, _ = mesh.cmap(mesh.norm(value))
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: name of its files, without extension.
        caption: one sentence on what the plot shows.
        svg, png: content of the files.
        paint: fills the figure.
        size: width and height in inches.
    """

    name: str
    caption: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)
    paint: Callable[[Figure], None] = field(repr=False)
    size: tuple[float, float]

    @property
    def wide(self) -> bool:
        """Whether the plot is too wide to read on a phone without scrolling."""
        return self.size[0] > _WIDE

    def pdf(self) -> bytes:
        """The plot as a PDF of one page, its lines and text as vectors. Drawn again at each call: pages need none."""
        pdf = io.BytesIO()
        with _figure(self.paint, self.size) as figure:
            _escape_missing(figure)
            figure.savefig(pdf, format="pdf", transparent=True, metadata={"CreationDate": None})
        return pdf.getvalue()

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.png

    def save(self, folder: Path) -> None:
        """Writes NAME.png and NAME.svg. Raises DynconvError if they cannot be written."""
        write_atomically(folder / f"{self.name}.png", lambda file: file.write_bytes(self.png))
        write_text(folder / f"{self.name}.svg", self.svg)

    @property
    def inline(self) -> Markup:
        """The SVG for embedding in a page: in the page's text colour, with ids that no other plot uses."""
        svg = self.svg[self.svg.index("<svg") :].replace(_INK, "currentColor")
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(url\(#|href="#)', rf"\1{self.name}-", svg)
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        label = str(Markup.escape(self.caption))
        return Markup(re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1))


def draw(name: str, caption: str, paint: Callable[[Figure], None], width: float = 6.4, height: float = 3.6) -> Plot:
    """Creates a figure of width x height inches, lets `paint` fill it, and renders it as SVG and PNG."""
    svg, png = io.StringIO(), io.BytesIO()
    with _figure(paint, (width, height)) as figure:
        with warnings.catch_warnings():  # the text of an SVG is in the fonts of its reader
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.set_layout_engine("none")  # already laid out; doing so again takes as long as drawing it
        _escape_missing(figure)
        figure.savefig(png, format="png", dpi=150)
    return Plot(name, caption, svg.getvalue(), png.getvalue(), paint, (width, height))


@contextmanager
def _figure(paint: Callable[[Figure], None], size: tuple[float, float]) -> Iterator[Figure]:
    """A painted figure, within the settings to render it in."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        for text in figure.findobj(Text):
            if found := fonts.fallbacks(text.get_text()):
                text.set_fontfamily([fonts.FAMILY, *(font.family for font in found)])
        yield figure


def _escape_missing(figure: Figure) -> None:
    """Replaces what no font of this machine can show by escapes, where the file holds glyphs instead of text."""
    for text in figure.findobj(Text):
        if (shown := fonts.escape_missing(text.get_text())) != text.get_text():
            text.set_text(shown)
