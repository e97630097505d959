"""Prints the messages of the package's loggers on standard error, without breaking a progress bar."""

from __future__ import annotations

import logging

from rich.console import Console


class _Handler(logging.Handler):
    """Prints messages unchanged, marking warnings and errors; prints through rich to keep its live lines intact."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text, style = self.format(record), None
            if record.levelno >= logging.WARNING:
                text, style = f"{record.levelname.lower()}: {text}", "yellow"
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
