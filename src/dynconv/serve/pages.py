"""The page at /, the documentation at /docs, and their files, all of which come with the package."""

from __future__ import annotations

from pathlib import Path

import jinja2
from fastapi import FastAPI, HTTPException, Response

from dynconv.serve.current import Current

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/routing.js": ("routing.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_pages(app: FastAPI, current: Current) -> None:
    """Adds the pages to `app`. /docs describes the other routes of `app`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    docs = environment.get_template("docs.html").render(api=app.openapi())
    answers = {path: ((_FOLDER / name).read_text(encoding="utf-8"), kind) for path, (name, kind) in _FILES.items()}
    for path, (text, kind) in {**answers, "/docs": (docs, "text/html")}.items():
        _add(app, path, text, kind)

    @app.get("/samples/{name}.png", include_in_schema=False)
    async def sample(name: str) -> Response:
        if name not in current.drawings:
            raise HTTPException(404, "no such drawing")
        return Response(current.drawings[name], media_type="image/png")


def _add(app: FastAPI, path: str, text: str, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def answer() -> Response:
        return Response(text, media_type=kind)
