"""What any text becomes in each format: class names and paths of any characters come out as they went in."""

import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import fontManager

from dynconv.report import fonts, plot
from dynconv.report.handin import latex, markdown, notebook, pdf
from dynconv.report.handin.document import (
    Cell,
    Chapter,
    Code,
    Column,
    Document,
    Equation,
    Figure,
    Items,
    Listing,
    Symbol,
    Table,
    text,
)

ODD = (
    "a_b*c", "1 & 2 | 3", "<b>$x$</b>", r"back\slash{}", "50 % #1 ~^", "`tick` ``two``", "[link](x)", "Äpfel œuvre ß",
    "Ελληνικά", "кошка", "--option -- 'q' \"r\"",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawing() -> plot.Plot:
    def paint(figure: Drawing) -> None:
        figure.add_subplot().set_title(ODD[0] + ODD[2])

    return plot.draw("odd", f"A caption: {ODD[0]} {ODD[1]}", paint, 3, 2)


def document(drawing: plot.Plot, names: tuple[str, ...] = ODD) -> Document:
    columns = Column("name"), Column("again", share=0.5), Column("", right=True)
    return Document(
        title=f"About {names[0]}", subtitle=names[1],
        abstract=[text("All: ", *(f"{name}; " for name in names), Symbol("K"))],
        setup="runs = []",
        chapters=[
            Chapter("One", [
                Items(names), Equation(r"O = \sum_{k=1}^{K} a_k \,\mathrm{Conv}_k(X)"), Figure(drawing),
                Cell("print(1)", "1\n"), text("After.", *(span for name in names for span in (" ", Code(name)))),
            ]),
            Chapter("Two & more", [
                Table("Names", columns, tuple((name, Code(name), "1") for name in names), total=True),
                Listing((f"cd '{names[3]}' && echo {names[5]}",)),
            ]),
        ],
    )  # fmt: skip


def plain(page: str) -> str:
    """The text of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_markdown_keeps_every_character(drawing: plot.Plot, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    source = markdown.write(document(drawing), tmp_path).read_text(encoding="utf-8")
    page = MarkdownIt("commonmark").enable("table").render(source)

    assert all(f"<li>{html.escape(name, quote=False)}</li>" in page.replace("&quot;", '"') for name in ODD)
    cells = [html.unescape(re.sub("<[^>]+>", "", each)) for each in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    assert cells == [cell for name in ODD for cell in (name, name, "1")]
    codes = [html.unescape(each) for each in re.findall("<code>(.*?)</code>", page)]
    assert codes == [*ODD, *ODD]  # of the sentence, and of the table
    assert f"cd '{ODD[3]}' && echo {ODD[5]}" in plain(page)
    assert '<img src="figures/odd.png"' in page and (tmp_path / "figures/odd.png").stat().st_size > 1000
    assert re.search(r'<a href="#chapter-2">Two &amp; more</a>', page) and '<a id="chapter-2"></a>' in page
    assert "print(1)" not in source


def test_a_notebook_holds_the_same_text_and_its_figures(drawing: plot.Plot, tmp_path: Path) -> None:
    pytest.importorskip("nbformat")
    report = json.loads(notebook.write(document(drawing), tmp_path).read_text(encoding="utf-8"))
    markdown.write(document(drawing), tmp_path)

    prose = "\n\n".join("".join(cell["source"]) for cell in report["cells"] if cell["cell_type"] == "markdown")
    parts = re.split(r"\n\n(?=!\[|## Contents)|\n\n(?=\*\*Figure)|\n\n(?=<a)", (tmp_path / "report.md").read_text())
    assert all(part.strip() in prose for part in parts if not part.startswith(("![", "## Contents")))
    code = [cell for cell in report["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]) for cell in code] == ["runs = []", 'figures["odd"]', "print(1)"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3]
    assert len(code[1]["outputs"][0]["data"]["image/png"]) > 1000 and code[2]["outputs"][0]["text"] == ["1\n"]


def test_latex_has_no_bare_command(drawing: plot.Plot) -> None:
    for name in ODD:
        for shown in (latex.escape(name), latex._code(name)):
            bare = shown
            for command in (
                r"\\textbackslash{}",
                r"\\text[a-z]+{}",
                r"\\allowbreak{}",
                r"\\texttt{",
                r"\\kern0pt ",
                r"\\[{}$&#_%]",
            ):
                bare = re.sub(command, "", bare)
            assert not re.search(r"[\\$&#_%~^<>|]", bare), name


@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_latex_compiles_and_keeps_every_character(drawing: plot.Plot, tmp_path: Path, engine: str) -> None:
    if not shutil.which(engine):
        pytest.skip(f"{engine} is not installed; the escapes are tested without it")
    pypdf = pytest.importorskip("pypdf")
    latex.write(document(drawing), tmp_path)

    words = [engine, "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)

    assert done.returncode == 0, done.stdout[-2000:]
    found = squeezed("".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "report.pdf").pages))
    for name in ODD:  # where the font lacks a character, its code
        either = "".join(f"(?:{re.escape(each)}|U[+]{ord(each):04X})-?" for each in squeezed(name))
        assert len(re.findall(either, found)) >= 4, name


def squeezed(found: str) -> str:
    """Text without spaces, in which extraction from a PDF differs, and with plain quotes and hyphens."""
    marks = str.maketrans("’‘“”−‐", "''\"\"--")
    return re.sub(r"\s+", "", found.translate(marks).replace("ﬀ", "ff"))


def test_a_pdf_keeps_every_character_and_draws_figures_as_vectors(drawing: plot.Plot, tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(io.BytesIO(pdf.write(document(drawing), tmp_path).read_bytes()))

    found = squeezed("".join(page.extract_text() for page in reader.pages))
    for name in ODD:
        assert found.count(squeezed(name)) >= 4, name  # in the abstract, the list, the table and a sentence
    assert not any(page.images for page in reader.pages)
    assert [entry.title for entry in reader.outline] == ["1  One", "2  Two & more"]
    links = [
        each.get_object() for each in reader.pages[0].annotations or [] if each.get_object()["/Subtype"] == "/Link"
    ]
    assert len(links) == 4  # a line of the contents and its page number, for each chapter
    assert reader.metadata.title == f"About {ODD[0]}"


# ---------------------------------------------------------------------------------------------------------- fonts


def titled(figure: Drawing) -> None:
    figure.add_subplot().set_title("a 猫")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose only fonts are matplotlib's own."""
    own = [entry for entry in fontManager.ttflist if Path(entry.fname).parent == fonts.FOLDER]
    monkeypatch.setattr(fontManager, "ttflist", own)
    fonts._holding.cache_clear()
    yield
    fonts._holding.cache_clear()


@pytest.mark.usefixtures("installed")
def test_what_no_font_shows_is_an_escape(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    drawn = plot.draw("cat", "猫", titled, 3, 2)

    assert fonts.fallbacks("猫") == [] and fonts.escape_missing("ä 猫") == r"ä \u732b"
    assert "猫" in drawn.svg  # which its reader's fonts show
    pdf.write(document(drawn, ("猫", *ODD[1:])), tmp_path)
    assert r"\u732b" in "".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "report.pdf").pages)


def test_other_scripts_are_shown_by_the_fonts_of_the_machine(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pypdf = pytest.importorskip("pypdf")
    font_of_one_character(tmp_path / "cats.ttf", "猫")
    fontManager.addfont(tmp_path / "cats.ttf")

    assert [font.family for font in fonts.fallbacks("a 猫")] == ["Cats"] and fonts.escape_missing("猫") == "猫"
    drawn = plot.draw("cat", "猫", titled, 3, 2)
    pdf.write(document(drawn, ("猫", *ODD[1:])), tmp_path)
    found = "".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "report.pdf").pages)
    assert found.count("猫") >= 5 and r"\u732b" not in found


def font_of_one_character(path: Path, character: str) -> None:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for number, point in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(character): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
