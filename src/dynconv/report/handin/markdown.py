"""A document as Markdown, as GitHub, pandoc and Jupyter read it, with equations in dollars."""

from __future__ import annotations

import re
from pathlib import Path

from dynconv.artifacts.files import write_text
from dynconv.errors import escaped
from dynconv.report.handin.document import (
    FIGURES,
    Block,
    Cell,
    Chapter,
    Code,
    Document,
    Equation,
    Figure,
    Items,
    Listing,
    Paragraph,
    Span,
    Symbol,
    Table,
)


def write(document: Document, folder: Path) -> Path:
    """Writes report.md, and its figures as PNG and SVG. Raises DynconvError if the folder cannot be written."""
    (folder / FIGURES).mkdir(exist_ok=True)
    for plot in document.figures.values():
        plot.save(folder / FIGURES)
    path, counter = folder / "report.md", Counter()
    blocks = [opening(document), *(block(each, counter) for each in document.abstract)]
    blocks += [contents(document)]
    for number, chapter in enumerate(document.chapters, 1):
        blocks += [heading(number, chapter), *(block(each, counter) for each in chapter.blocks)]
    whole = "\n\n".join(filter(None, blocks)) + "\n"
    write_text(path, whole)
    return path


class Counter:
    """Numbers tables and figures from 1."""

    def __init__(self) -> None:
        self._counts = {"Table": 0, "Figure": 0}

    def next(self, kind: str) -> str:
        """The label of the next table or figure."""
        self._counts[kind] += 1
        return f"**{kind} {self._counts[kind]}.**"


def opening(document: Document) -> str:
    """The title and the lines below it."""
    lines = [f"# {escape(document.title)}", escape(document.subtitle), escape(document.byline)]
    return "\n\n".join(filter(None, lines))


def contents(document: Document) -> str:
    """The list of chapters, each a link."""
    entries = [f"{number}. [{escape(each.title)}](#{_anchor(number)})" for number, each in _numbered(document)]
    return "## Contents\n\n" + "\n".join(entries)


def heading(number: int, chapter: Chapter) -> str:
    """The heading of a chapter, with the anchor that the contents lead to."""
    return f'<a id="{_anchor(number)}"></a>\n\n## {number}. {escape(chapter.title)}'


def block(each: Block, counter: Counter) -> str:
    """A block; empty for the cells of a notebook."""
    match each:
        case Paragraph(parts):
            return "".join(map(span, parts))
        case Items(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Equation(tex):
            return f"$$\n{tex}\n$$"
        case Table():
            return f"{counter.next('Table')} {escape(each.caption)}\n\n{_table(each)}"
        case Figure(plot):
            alt = escape(plot.name.replace("-", " "))
            return f"![{alt}]({FIGURES}/{plot.name}.png)\n\n{caption(each, counter)}"
        case Listing(lines):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", "\n".join(lines))), default=0))
            return "\n".join([fence, *map(escaped, lines), fence])
        case Cell():
            return ""


def caption(figure: Figure, counter: Counter) -> str:
    """The caption of a figure, with its number."""
    return f"{counter.next('Figure')} {escape(figure.text)}"


def span(part: Span, *, cell: bool = False) -> str:
    """A part of a paragraph, or of a cell of a table, where a bar would end the cell."""
    match part:
        case Symbol(letter):
            return f"${letter}$"
        case Code(raw):
            text = escaped(raw)
            fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
            padding = " " if text[:1] == "`" or text[-1:] == "`" else ""
            code = f"{fence}{padding}{text}{padding}{fence}"
            return code.replace("|", r"\|") if cell else code
        case text:
            return escape(text)


def escape(text: str) -> str:
    """`text` so that no character of it is markup."""
    return re.sub(r"([\\`*_\[\]<>|$~&#])", r"\\\1", escaped(text))


def _table(table: Table) -> str:
    titles = " | ".join(escape(column.title) for column in table.columns)
    rules = " | ".join("---:" if column.right else "---" for column in table.columns)
    rows = [" | ".join(span(each, cell=True) for each in row) for row in table.rows]
    return "\n".join(f"| {row} |" for row in (titles, rules, *rows))


def _anchor(number: int) -> str:
    return f"chapter-{number}"


def _numbered(document: Document) -> list[tuple[int, Chapter]]:
    return list(enumerate(document.chapters, 1))
