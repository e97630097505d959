"""The page at /, the documentation at /docs, and their files, all of which come with the package."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, HTTPException, Response

from dynconv.page import files
from dynconv.serve.current import Current

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_pages(app: FastAPI, current: Current) -> None:
    """Adds the pages to `app`. /docs describes the other routes of `app`."""
    templates = files.templates(_FOLDER)
    docs = templates.get_template("docs.html").render(api=app.openapi())
    _add(app, "/", templates.get_template("index.html").render(), "text/html")
    _add(app, "/docs", docs, "text/html")
    for name, text in {**files.shared(), "page.js": (_FOLDER / "page.js").read_text(encoding="utf-8")}.items():
        _add(app, f"/{name}", text, _TYPES[Path(name).suffix])

    @app.get("/samples/{name}.png", include_in_schema=False)
    async def sample(name: str) -> Response:
        if name not in current.drawings:
            raise HTTPException(404, "no such drawing")
        return Response(current.drawings[name], media_type="image/png")


def _add(app: FastAPI, path: str, text: str, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def answer() -> Response:
        return Response(text, media_type=kind)
