"""Sections of the page about a run: each is registered where it is defined, in dynconv.report.sections.

A section is a module there with one function, and a template of the same name in templates/sections/. Adding one
touches no other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dynconv.report.plot import Plot
from dynconv.report.subject import Subject


@dataclass(frozen=True)
class Content:
    """What a section shows: plots, by which its template can ask, and values for the template."""

    plots: list[Plot] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


Maker = Callable[[Subject], Content | None]
"""Makes a section's content; None leaves the section out, where the run has nothing for it."""


@dataclass(frozen=True)
class Section:
    """One section: `name` is its anchor and its template's, `order` its place on the page."""

    name: str
    title: str
    order: int
    make: Maker


SECTIONS: dict[str, Section] = {}


def section(name: str, title: str, order: int) -> Callable[[Maker], Maker]:
    """Registers the function that makes a section's content."""

    def register(make: Maker) -> Maker:
        SECTIONS[name] = Section(name, title, order, make)
        return make

    return register


def all_sections() -> list[Section]:
    """Every section of dynconv.report.sections, in the order of the page."""
    package = importlib.import_module("dynconv.report.sections")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(SECTIONS.values(), key=lambda section: section.order)
