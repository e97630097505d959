"""Prose as wide as the terminal.

Imports only the standard library, so that `dynconv --help` answers at once.
"""

from __future__ import annotations

import shutil
import textwrap

_NARROWEST = 40


def columns() -> int:
    """The width of the terminal; 80 where it is unknown."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def filled(text: str, indent: str = "", hanging: str | None = None, width: int | None = None) -> str:
    """The text broken between words, paragraph by paragraph. Words longer than a line, such as paths, stay whole.

    Args:
        indent: what each paragraph begins with.
        hanging: what its further lines begin with; `indent` by default.
        width: of a line; by default that of the terminal.
    """
    wrapper = textwrap.TextWrapper(
        width or columns(), initial_indent=indent, subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n\n".join(wrapper.fill(paragraph) for paragraph in text.split("\n\n"))
