"""The files that both pages have, and their templates."""

from __future__ import annotations

from pathlib import Path

import jinja2

_FOLDER = Path(__file__).parent
SHARED = ("page.css", "cards.js", "routing.js", "icon.svg")
"""Their names."""


def shared() -> dict[str, str]:
    """Text by file name."""
    return {name: (_FOLDER / name).read_text(encoding="utf-8") for name in SHARED}


def templates(folder: Path) -> jinja2.Environment:
    """Those in `folder`, which may extend page.html, which both pages share. Values are escaped as HTML."""
    loader = jinja2.FileSystemLoader([folder, _FOLDER])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
