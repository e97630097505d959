"""The formats of a report to hand in."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from dynconv.errors import DynconvError
from dynconv.report.handin import latex, markdown, notebook, pdf
from dynconv.report.handin.document import Document

FORMATS: dict[str, tuple[Callable[[Document, Path], Path], tuple[str, ...]]] = {
    "pdf": (pdf.write, pdf.NEEDS),
    "md": (markdown.write, ()),
    "tex": (latex.write, ()),
    "ipynb": (notebook.write, notebook.NEEDS),
}
"""By name: what writes a document into a folder and returns the path of the report; and the packages that it needs."""


def need(name: str) -> None:
    """Raises DynconvError if a package that the format needs is not installed."""
    for package in FORMATS[name][1]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DynconvError(
                f"--format {name} needs {package}, which is not installed: pip install 'dynconv[handin]'; "
                "md and tex need nothing more"
            ) from error
