"""Templates -> HTML."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dynconv.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["figure"] = figure
    environment.globals["script"] = _script
    environment.globals["checksum"] = _checksum
    return environment


def _script(name: str) -> Markup:
    """A script of ours, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _checksum(name: str) -> Markup:
    """By this a page's policy admits that script, and still none that the name of a run, say, might bring in."""
    return Markup(b64encode(hashlib.sha256(_script(name).encode()).digest()).decode())


def render(template: str, **context: Any) -> str:
    """Renders a whole page. A name that the template uses and `context` lacks is an error."""
    return _environment().get_template(template).render(**context)


def render_part(template: str, **context: Any) -> Markup:
    """Renders a part of a page, for use in another template."""
    return Markup(render(template, **context))


def figure(name: str, found: tuple[float, float | None, int] | None) -> str:
    """Formats a mean and its standard deviation in the unit of the column; "-" if there is none."""
    if found is None:
        return "-"
    mean, sd, _ = found
    if name.endswith("accuracy") or name == "with test-time augmentation":
        return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}") + " %"
    if name == "parameters":
        return f"{mean:,.0f}"
    if name == "multiply-adds":
        return f"{mean / 1e6:,.1f} M"
    digits = 0 if name == "training, s" else 4
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
