"""A document as a Jupyter notebook: the same text and figures, and code that computes the figures from the run.

Needs the extra `handin`, which is imported on use; a `DynconvError` says how to install it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from dynconv.artifacts.files import write_text
from dynconv.report.handin import markdown
from dynconv.report.handin.document import Cell, Document, Figure

NEEDS = ("nbformat",)
"""The packages that it imports."""


def write(document: Document, folder: Path) -> Path:
    """Writes report.ipynb, whose figures are in it. Raises DynconvError if the folder cannot be written."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=_cells(document))
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # a random one would differ from one writing to the next
    nbformat.validate(notebook)
    path = folder / "report.ipynb"
    write_text(path, nbformat.writes(notebook) + "\n")
    return path


def _cells(document: Document) -> list[Any]:
    """Text between two pieces of code is one cell; a figure is the output of a line of code."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

    counter, cells, count = markdown.Counter(), [], 0

    def code(source: str, output: Any) -> None:
        nonlocal count
        count += 1
        if output and output.output_type == "execute_result":
            output.execution_count = count
        cells.append(new_code_cell(source, execution_count=count, outputs=[output] if output else []))

    def prose(*texts: str) -> None:
        cells.append(new_markdown_cell("\n\n".join(texts)))

    prose(markdown.opening(document), *(markdown.block(block, counter) for block in document.abstract))
    code(document.setup, None)
    for number, chapter in enumerate(document.chapters, 1):
        texts = [markdown.heading(number, chapter)]
        for block in chapter.blocks:
            if not isinstance(block, Cell | Figure):
                texts.append(markdown.block(block, counter))
                continue
            if texts:
                prose(*texts)
            if isinstance(block, Cell):
                code(block.source, new_output("stream", text=block.output) if block.output else None)
                texts = []
            else:
                image = base64.b64encode(block.plot.png).decode()
                data = {"image/png": image, "text/plain": repr(block.plot)}
                code(f'figures["{block.plot.name}"]', new_output("execute_result", data=data))
                texts = [markdown.caption(block, counter)]
        if texts:
            prose(*texts)
    return cells
