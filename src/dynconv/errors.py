"""The exception for users' mistakes, whose message is one printable line whatever it quotes."""

from __future__ import annotations

import unicodedata


class DynconvError(Exception):
    """A one-line message: what is wrong, where, and what to do. The command prints it and exits with `exit_code`.

    What the message quotes from files and paths is shown escaped, so no file can move the cursor or add a line.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that a terminal interprets or cannot show: controls, formats, surrogates, line separators."""

_JOINERS = "\u200c\u200d"
"""Format characters that emoji, Persian and several Indian scripts need."""


def escaped(text: str) -> str:
    """`text` as one printable line: whatever a terminal would interpret or cannot show becomes an escape, as in Python.

    A byte of a file name that is not UTF-8 becomes `\\xff`.
    """
    return "".join(_escape(character) if hidden(character) else character for character in text)


def hidden(character: str) -> bool:
    """Whether a terminal interprets the character or cannot show it."""
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that it could not decode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
