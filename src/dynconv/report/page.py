"""Templates -> HTML."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dynconv.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["figure"] = figure
    return environment


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
