"""A document as LaTeX, for pdfLaTeX, XeLaTeX and LuaLaTeX, with packages that every installation has."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from dynconv.artifacts.files import write_atomically, write_text
from dynconv.errors import escaped
from dynconv.report.handin.document import (
    FIGURES,
    Block,
    Cell,
    Code,
    Column,
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
from dynconv.report.plot import Plot

_PREAMBLE = r"""\documentclass[11pt,a4paper]{article}
\usepackage{iftex}
\ifpdftex
  \usepackage[T1]{fontenc}
  \usepackage[utf8]{inputenc}
  \usepackage{textcomp,lmodern}
  % {code}{character}: shown by its code, unless pdfLaTeX knows it
  \newcommand{\othercharacter}[2]{%
    \ifcsname u8:\detokenize{#2}\endcsname\else\DeclareUnicodeCharacter{#1}{\texttt{U+#1}}\fi}
\else
  \usepackage{fontspec}
  % {code}{character}: shown by its code, unless the font has it; \setmainfont chooses another font
  \newcommand{\othercharacter}[2]{%
    \catcode"#1=\active\begingroup\lccode`\~="#1\relax
    \lowercase{\endgroup\protected\def~}{\iffontchar\font"#1 \char"#1 \else\texttt{U+#1}\fi}}
\fi
\usepackage[margin=2.2cm]{geometry}
\usepackage{amsmath,graphicx,longtable,array,booktabs,float}
\usepackage[hidelinks]{hyperref}
\setlength{\parindent}{0pt}
\setlength{\parskip}{0.6em}
\setlength{\emergencystretch}{3em}
"""
_WIDTH, _HEIGHT = 6.5, 8.4
"""Largest size of a figure on the page, in inches; below it stands its caption."""


def write(document: Document, folder: Path) -> Path:
    """Writes report.tex, and its figures as PDF. Raises DynconvError if the folder cannot be written."""
    (folder / FIGURES).mkdir(exist_ok=True)
    for plot in document.figures.values():
        write_atomically(folder / FIGURES / f"{plot.name}.pdf", partial(_write_pdf, plot))
    path, whole = folder / "report.tex", latex(document)
    write_text(path, whole)
    return path


def _write_pdf(plot: Plot, file: Path) -> None:
    file.write_bytes(plot.pdf())


def latex(document: Document) -> str:
    """The source of the document."""
    parts = [rf"\title{{{escape(document.title)}\\\large {escape(document.subtitle)}}}"]
    parts += [rf"\author{{{escape(document.byline)}}}", r"\date{}"]
    parts += [r"\begin{document}", r"\maketitle", *map(_block, document.abstract), r"\tableofcontents", r"\clearpage"]
    for chapter in document.chapters:
        parts += [rf"\section{{{escape(chapter.title)}}}", *map(_block, chapter.blocks)]
    body = "\n\n".join([*filter(None, parts), r"\end{document}"]) + "\n"
    others = sorted({character for character in body if ord(character) >= 0x100})
    declared = "".join(rf"\othercharacter{{{ord(each):04X}}}{{{each}}}" + "\n" for each in others)
    return _PREAMBLE + declared + body


def _block(block: Block) -> str:
    match block:
        case Paragraph(parts):
            return "".join(map(_span, parts))
        case Items(items):
            return "\n".join([r"\begin{itemize}", *(rf"\item {escape(item)}" for item in items), r"\end{itemize}"])
        case Equation(tex):
            return rf"\[ {tex} \]"
        case Table():
            return _table(block)
        case Figure(plot):
            width = min(plot.size[0], _WIDTH, _HEIGHT * plot.size[0] / plot.size[1])
            image = rf"\includegraphics[width={width:.2f}in]{{{FIGURES}/{plot.name}.pdf}}"
            caption = rf"\caption{{{escape(block.text)}}}"
            return "\n".join([r"\begin{figure}[H]\centering", image, caption, r"\end{figure}"])
        case Listing(lines):
            shown = (r" \par" + "\n").join(map(_code, lines))
            return "\n".join([r"\begin{quote}\raggedright", shown, r"\end{quote}"])
        case Cell():
            return ""


def _table(table: Table) -> str:
    columns = "".join(map(_column, table.columns))
    head = _row([rf"\textbf{{{escape(column.title)}}}" for column in table.columns])
    rows = [_row([_span(cell) for cell in row]) for row in table.rows]
    if table.total:
        rows.insert(-1, r"\midrule")
    begin = [rf"{{\footnotesize\begin{{longtable}}{{@{{}}{columns}@{{}}}}", rf"\caption{{{escape(table.caption)}}}\\"]
    titles = any(column.title for column in table.columns)
    begin += [r"\toprule", head, r"\midrule\endhead"] if titles else [r"\toprule\endhead"]
    return "\n".join([*begin, r"\bottomrule\endlastfoot", *rows, r"\end{longtable}}"])


def _column(column: Column) -> str:
    if column.share is None:
        return "r" if column.right else "l"
    return rf">{{\raggedright\arraybackslash}}p{{\dimexpr{column.share:g}\linewidth-2\tabcolsep}}"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _span(part: Span) -> str:
    match part:
        case Symbol(letter):
            return f"${letter}$"
        case Code(text):
            return _code(text)
        case text:
            return escape(text)


def _code(text: str) -> str:
    """Text in typewriter type, which may break after the marks in names and paths."""
    marks = {mark: _CHARACTERS.get(mark, mark) + r"\allowbreak{}" for mark in "/._,=-"}
    marks["'"] = r"\textquotesingle{}"  # in a sentence, it is an apostrophe
    return rf"\texttt{{{_translated(text, marks)}}}"


def escape(text: str) -> str:
    """`text` so that no character of it is a command."""
    return re.sub("-(?=-)", r"-\\kern0pt ", _translated(text, {}))  # two hyphens are no dash


def _translated(text: str, more: dict[str, str]) -> str:
    return "".join(more.get(each) or _CHARACTERS.get(each, each) for each in escaped(text))


_CHARACTERS = {
    **{mark: rf"\{mark}" for mark in "{}$&#_%"},
    **{mark: f"{{{mark}}}" for mark in "[]*"},  # after the end of a row they would be its arguments
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    **{digit: f"$_{number}$" for number, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "ₖ": "$_k$", "Σ": r"$\Sigma$", "−": "$-$",
}  # fmt: skip
