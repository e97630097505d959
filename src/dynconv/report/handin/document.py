"""A document as every format sees it: chapters of paragraphs, equations, tables, figures and commands.

Text is plain, in any script, and each writer escapes it for its own format. Nothing here knows a format.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynconv.report.plot import Plot

FIGURES = "figures"
"""The folder beside a report that holds its figures, where its format has them in files of their own."""


@dataclass(frozen=True)
class Code:
    """Text shown as code: a name, an option, a path."""

    text: str


@dataclass(frozen=True)
class Symbol:
    """A variable of an equation, one letter, within a sentence."""

    letter: str


Span = str | Code | Symbol


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Items:
    """A list with bullets."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Equation:
    """A displayed equation, in the TeX that LaTeX, MathJax and matplotlib have in common."""

    tex: str


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        right: whether its cells are numbers, aligned at their right.
        share: share of the text's width, 0..1, in which its cells wrap; None for the width of its longest cell.
    """

    title: str
    right: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under a caption. `total`: whether the last row sums up the others."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Span, ...], ...]
    total: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot, and its caption where that of the plot is not enough."""

    plot: Plot
    caption: str = ""

    @property
    def text(self) -> str:
        """The caption."""
        return self.caption or self.plot.caption


@dataclass(frozen=True)
class Listing:
    """Commands, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """Python that computes figures of the report from the run directory, and what it prints. For notebooks only."""

    source: str
    output: str = ""


Block = Paragraph | Items | Equation | Table | Figure | Listing | Cell


@dataclass(frozen=True)
class Chapter:
    """A chapter. Chapters are numbered from 1, tables and figures throughout the document."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title, subtitle: what it is about, and of which runs.
        byline: who hands it in, and when; empty for nobody.
        abstract: what stands before the contents.
        setup: the first code of a notebook, which defines what the cells use: runs, figures, data.
    """

    title: str
    subtitle: str
    abstract: list[Block]
    chapters: list[Chapter]
    setup: str = ""
    byline: str = ""

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [*self.abstract, *(block for chapter in self.chapters for block in chapter.blocks)]

    @property
    def figures(self) -> dict[str, Plot]:
        """The plots by name, in order."""
        return {block.plot.name: block.plot for block in self.blocks if isinstance(block, Figure)}


def text(*spans: Span) -> Paragraph:
    """A paragraph."""
    return Paragraph(spans)
