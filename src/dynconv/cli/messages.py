"""Prints the messages of the package's loggers on standard error, without breaking a progress bar."""

from __future__ import annotations

import logging

from rich.console import Console

from dynconv.cli.terminal import filled


class _Handler(logging.Handler):
    """Prints messages, marking warnings and errors; prints through rich to keep its live lines intact.

    On a terminal they are broken between words.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text, style = self.format(record), None
            if record.levelno >= logging.WARNING:
                text, style = f"{record.levelname.lower()}: {text}", "yellow"
            if self._console.is_terminal:  # elsewhere one line, for programs that read it
                text = "\n".join(filled(line, width=self._console.width) for line in text.split("\n"))
            self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_messages(*, quiet: bool = False) -> Console:
    """Prints all messages from now on, or none; returns the console that they share with a progress bar."""
    console = Console(stderr=True, highlight=False, quiet=quiet)
    logger = logging.getLogger("dynconv")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
        logger.removeHandler(handler)
    logger.addHandler(_Handler(console))
    logger.setLevel(logging.INFO)
    return console
