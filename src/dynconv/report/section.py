"""Sections of the page about a run; each is registered where it is defined, in dynconv.report.sections.

A section is a module in that package with one function, and a template of the same name in templates/sections/. To add
one, no other file needs to change.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dynconv.report.plot import Plot
from dynconv.report.subject import Subject


@dataclass(frozen=True)
class Content:
    """What a section shows: plots, which its template accesses by name, and values for the template."""

    plots: list[Plot] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


Maker = Callable[[Subject], Content | None]
"""Makes a section's content; returns None to leave the section out if the run has nothing for it."""

AnyMaker = TypeVar("AnyMaker", bound=Maker)


@dataclass(frozen=True)
class Section:
    """One section: `name` is the name of its anchor and its template, `order` its position on the page."""

    name: str
    title: str
    order: int
    make: Maker


SECTIONS: dict[str, Section] = {}


def section(name: str, title: str, order: int) -> Callable[[AnyMaker], AnyMaker]:
    """Registers the decorated function, which makes a section's content."""

    def register(make: AnyMaker) -> AnyMaker:
        SECTIONS[name] = Section(name, title, order, make)
        return make

    return register


def all_sections() -> list[Section]:
    """Every section of dynconv.report.sections, in page order."""
    package = importlib.import_module("dynconv.report.sections")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(SECTIONS.values(), key=lambda section: section.order)
