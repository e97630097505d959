"""A document as PDF: set by fpdf2, its figures and equations as vectors, drawn by matplotlib and placed by pypdf.

Needs the extra `handin`, which is imported on use; a `DynconvError` says how to install it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynconv.artifacts.files import write_atomically
from dynconv.errors import escaped
from dynconv.report import fonts
from dynconv.report.handin.document import (
    Block,
    Cell,
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
from dynconv.report.plot import COLOURS

if TYPE_CHECKING:
    from fpdf import FPDF

NEEDS = ("fpdf", "pypdf")
"""The packages that it imports."""

_MARGIN = 20.0
"""Of the page, in millimetres, as all lengths here; A4."""
_BODY, _SMALL = 9.5, 8.0
"""Sizes of type, in points."""
_LINE = 5.0
_INCH = 25.4
_CAPTION = 18.0
"""What is kept free for the caption of a figure."""
_LEAST = 0.75
"""A figure becomes so much smaller at most, to fit on what is left of a page."""
_WHOLE = 16
"""Tables of so many rows at most are not broken."""
_GREY = (90, 90, 90)
_LINK = tuple(int(COLOURS[0][place : place + 2], 16) for place in (1, 3, 5))
_STYLES = {"": "DejaVuSans", "B": "DejaVuSans-Bold", "I": "DejaVuSans-Oblique"}


@dataclass(frozen=True)
class _Placed:
    """A drawing's place: the page, from 0, its lower left corner in points, and its scale."""

    content: bytes
    page: int
    x: float
    y: float
    scale: float


def write(document: Document, folder: Path) -> Path:
    """Writes report.pdf. Raises DynconvError if the folder cannot be written."""
    path, content = folder / "report.pdf", _Setter(document).pdf()
    write_atomically(path, lambda file: file.write_bytes(content))
    return path


class _Setter:
    """Sets a document, block by block, and remembers where its drawings go."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._placed: list[_Placed] = []
        self._counts = {"Table": 0, "Figure": 0}
        self._page = _page(document)

    def pdf(self) -> bytes:
        """The whole document."""
        page, document = self._page, self._document
        page.add_page()
        page.set_font("sans", "B", 17)
        page.multi_cell(0, 9, self._shown(document.title), align="L", new_x="LMARGIN", new_y="NEXT")
        page.set_font("sans", "", 11)
        page.set_text_color(*_GREY)
        for line in filter(None, (document.subtitle, document.byline)):
            page.multi_cell(0, 7, self._shown(line), align="L", new_x="LMARGIN", new_y="NEXT")
        page.set_text_color(0)
        page.ln(3)
        for block in document.abstract:
            self._block(block)
        page.ln(4)
        self._title("Contents")
        page.insert_toc_placeholder(self._contents)
        for number, chapter in enumerate(document.chapters, 1):
            if page.will_page_break(14 + self._needed(chapter.blocks[0])):
                page.add_page()
            page.ln(4)
            page.start_section(f"{number}  {chapter.title}")
            self._title(f"{number}  {chapter.title}")
            for block in chapter.blocks:
                self._block(block)
        return _with_drawings(bytes(page.output()), self._placed)

    def _block(self, block: Block) -> None:
        match block:
            case Paragraph(spans):
                self._spans(spans)
            case Items(items):
                for item in items:
                    self._spans(("•  ", item), space=0)
                self._page.ln(_LINE / 2)
            case Equation(tex):
                self._equation(tex)
            case Table():
                self._table(block)
            case Figure():
                self._figure(block)
            case Listing(lines):
                self._listing(lines)
            case Cell():
                pass

    def _spans(self, spans: Sequence[Span], space: float = _LINE / 2) -> None:
        page = self._page
        for span in spans:
            family, style, text = _typed(span)
            page.set_font(family, style, _BODY if family == "sans" else _BODY - 1)
            page.write(_LINE, self._shown(text))
        page.ln(_LINE + space)

    def _equation(self, tex: str) -> None:
        content, width, height = _equation(tex)
        if self._page.will_page_break(height + _LINE):
            self._page.add_page()
        self._place(content, self._page.l_margin + 8, self._page.get_y(), height, 1.0)
        self._page.ln(height + _LINE / 1.5)

    def _needed(self, block: Block) -> float:
        """The height that a block has to have on a page, or its beginning."""
        if isinstance(block, Figure):
            return _LEAST * self._scale(block) * _INCH * block.plot.size[1] + _CAPTION
        return 40.0 if isinstance(block, Table) else 25.0

    def _scale(self, figure: Figure) -> float:
        """The scale at which a figure and its caption fit on a page of their own."""
        width, height = (_INCH * side for side in figure.plot.size)
        return min(1.0, self._page.epw / width, (self._page.eph - _CAPTION) / height)

    def _figure(self, figure: Figure) -> None:
        page = self._page
        width, height = (_INCH * side for side in figure.plot.size)
        if page.will_page_break(self._needed(figure)):
            page.add_page()
        room = page.h - _MARGIN - page.get_y() - _CAPTION
        scale = min(self._scale(figure), room / height)
        caption = self._numbered("Figure", figure.text)
        left = page.l_margin + (page.epw - scale * width) / 2
        self._place(figure.plot.pdf(), left, page.get_y(), scale * height, scale)
        page.ln(scale * height + 1)
        self._caption(caption)
        page.ln(4)

    def _place(self, content: bytes, left: float, top: float, height: float, scale: float) -> None:
        page, points = self._page, 72 / _INCH
        bottom = (page.h - top - height) * points
        self._placed.append(_Placed(content, page.page - 1, left * points, bottom, scale))

    def _table(self, table: Table) -> None:
        from fpdf.fonts import FontFace

        page = self._page
        page.set_font("sans", "", _SMALL)
        widths = self._widths(table)
        caption = self._numbered("Table", table.caption)
        if page.will_page_break(5.5 * (len(table.rows) if len(table.rows) <= _WHOLE else 6) + 14):
            page.add_page()
        self._caption(caption)
        page.set_font("sans", "", _SMALL)
        titles = any(column.title for column in table.columns)
        with page.table(
            width=sum(widths), col_widths=widths, align="LEFT", line_height=3.9, padding=(0.7, 1.2),
            text_align=["RIGHT" if column.right else "LEFT" for column in table.columns],
            borders_layout="HORIZONTAL_LINES", v_align="TOP", first_row_as_headings=titles,
            headings_style=FontFace(emphasis="BOLD"), gutter_height=0,
        ) as rows:  # fmt: skip
            if titles:
                rows.row([self._shown(column.title) for column in table.columns])
            for number, cells in enumerate(table.rows, 1):
                row = rows.row()
                for cell in cells:
                    family, style, text = _typed(cell)
                    if table.total and number == len(table.rows):
                        style = "B"
                    face = FontFace(family=family, emphasis=style or None, size_pt=_SMALL - (family == "mono"))
                    row.cell(self._shown(text), style=face)
        page.ln(_LINE)

    def _widths(self, table: Table) -> list[float]:
        """Of the columns: what their longest cell takes, or their share; together at most the text's width."""
        page, padding = self._page, 3.2
        widths = []
        for place, column in enumerate(table.columns):
            if column.share is not None:
                widths.append(column.share * page.epw)
                continue
            page.set_font("sans", "B", _SMALL)  # the widest that a cell can be in
            texts = [column.title, *(_typed(row[place])[2] for row in table.rows)]
            widths.append(min(max(page.get_string_width(self._shown(each)) for each in texts) + padding, page.epw / 2))
        page.set_font("sans", "", _SMALL)
        return [width * min(1.0, 0.9999 * page.epw / sum(widths)) for width in widths]

    def _listing(self, lines: Sequence[str]) -> None:
        page = self._page
        page.set_font("mono", "", _SMALL)
        page.set_fill_color(242)
        text = "\n".join(self._shown(line) for line in lines)
        page.multi_cell(0, 4.4, text, fill=True, padding=2, align="L", new_x="LMARGIN", new_y="NEXT")
        page.set_fill_color(255)
        page.ln(_LINE / 1.5)

    def _title(self, text: str) -> None:
        self._page.set_font("sans", "B", 13)
        self._page.multi_cell(0, 9, text, align="L", new_x="LMARGIN", new_y="NEXT")

    def _numbered(self, kind: str, text: str) -> str:
        self._counts[kind] += 1
        return self._shown(f"{kind} {self._counts[kind]}. {text}")

    def _caption(self, text: str) -> None:
        self._page.set_font("sans", "", _SMALL)
        self._page.set_text_color(*_GREY)
        self._page.multi_cell(0, 4, text, align="L", new_x="LMARGIN", new_y="NEXT")
        self._page.set_text_color(0)

    def _contents(self, page: FPDF, outline: list[Any]) -> None:
        page.set_font("sans", "", 10.5)
        page.set_text_color(*_LINK)
        page.set_x(page.l_margin)
        for entry in outline:
            link = page.add_link(page=entry.page_number)
            width = page.epw - 12
            dots = "." * int((width - page.get_string_width(entry.name) - 4) / page.get_string_width("."))
            page.cell(width, 7, f"{entry.name} {dots}", link=link)
            page.cell(12, 7, str(entry.page_number), link=link, align="R", new_x="LMARGIN", new_y="NEXT")
        page.set_text_color(0)

    def _shown(self, text: str) -> str:
        """`text` with what no font shows as escapes; gives the page the fonts that hold the rest."""
        text = fonts.escape_missing(escaped(text))
        for font in fonts.fallbacks(text):
            if font.family.lower() not in self._page.fonts:
                self._page.add_font(font.family, "", font.file)
                self._page.set_fallback_fonts(["sans", *(each.family for each in fonts.fallbacks(text))], False)
        return text


def _typed(span: Span) -> tuple[str, str, str]:
    """Family, style and text of a span."""
    match span:
        case Code(text):
            return "mono", "", text
        case Symbol(letter):
            return "sans", "I", letter
        case text:
            return "sans", "", text


def _page(document: Document) -> FPDF:
    """An empty document with its fonts, which are matplotlib's."""
    from fpdf import FPDF

    class Page(FPDF):
        def footer(self) -> None:
            self.set_y(-13)
            self.set_font("sans", "", 8)
            self.set_text_color(*_GREY)
            self.cell(0, 5, str(self.page_no()), align="C")
            self.set_text_color(0)

    page = Page(format="A4")
    page.set_margin(_MARGIN)
    page.set_auto_page_break(True, _MARGIN)
    page.set_draw_color(170)
    page.set_line_width(0.15)
    for style, name in _STYLES.items():
        page.add_font("sans", style, fonts.FOLDER / f"{name}.ttf")
    page.add_font("mono", "", fonts.FOLDER / "DejaVuSansMono.ttf")
    page.add_font("mono", "B", fonts.FOLDER / "DejaVuSansMono-Bold.ttf")
    page.set_fallback_fonts(["sans"], exact_match=False)
    page.set_title(escaped(document.title))
    page.set_lang("en")
    return page


def _equation(tex: str) -> tuple[bytes, float, float]:
    """An equation as a PDF, its width and height."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image
    from pypdf import PdfReader

    pdf = io.BytesIO()
    with matplotlib.rc_context({"mathtext.fontset": "cm", "pdf.fonttype": 42}):
        math_to_image(f"${tex}$", pdf, prop=FontProperties(size=11.5), format="pdf")
    box = PdfReader(pdf).pages[0].mediabox
    return pdf.getvalue(), float(box.width) * _INCH / 72, float(box.height) * _INCH / 72


def _with_drawings(pdf: bytes, placed: Sequence[_Placed]) -> bytes:
    """The document with each drawing at its place."""
    from pypdf import PdfReader, PdfWriter, Transformation

    writer = PdfWriter(clone_from=io.BytesIO(pdf))
    for one in placed:
        drawing = PdfReader(io.BytesIO(one.content)).pages[0]
        place = Transformation().scale(one.scale).translate(one.x, one.y)
        writer.pages[one.page].merge_transformed_page(drawing, place)
    for page in writer.pages:
        page.compress_content_streams()
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
