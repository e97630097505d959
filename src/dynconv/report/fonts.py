"""Fonts for text in any script, such as the names of classes: matplotlib's own, and those of this machine.

Matplotlib's font holds the Latin, Greek and Cyrillic scripts, among others. Other characters are searched for in the
fonts installed on this machine; what none of them holds is shown as an escape.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

# Embedded in a file, matplotlib's fonts would each be reported for the year in them.
logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)

FAMILY = "DejaVu Sans"
FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
"""Where matplotlib keeps its own fonts."""


@dataclass(frozen=True)
class Font:
    """A font of this machine: its name, and its file."""

    family: str
    file: str


def fallbacks(text: str) -> list[Font]:
    """The installed fonts that hold the characters of `text` which matplotlib's own lacks, as far as there are any."""
    missing = {character for character in text if ord(character) not in _held(str(FOLDER / "DejaVuSans.ttf"))}
    found: list[Font] = []
    for character in sorted(missing - {"\n"}):
        if not any(ord(character) in _held(font.file) for font in found) and (font := _holding(character)):
            found.append(font)
    return found


def escape_missing(text: str) -> str:
    """`text` with an escape such as \\u732b for each character that no font of this machine holds."""
    own, others = _held(str(FOLDER / "DejaVuSans.ttf")), fallbacks(text)
    return "".join(
        character
        if character == "\n" or ord(character) in own or any(ord(character) in _held(font.file) for font in others)
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in text
    )


@cache
def _holding(character: str) -> Font | None:
    """The first installed font of normal weight and style that holds the character."""
    plain = [
        entry
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal")
        and not entry.name.startswith("Last Resort")  # which has the same box for every character
    ]
    for entry in sorted(plain, key=lambda entry: (entry.name, entry.fname)):
        if ord(character) in _held(entry.fname):
            return Font(entry.name, entry.fname)
    return None


@cache
def _held(file: str) -> frozenset[int]:
    """The characters of a font; none if the file cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
