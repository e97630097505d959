"""`dynconv presets`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from dynconv.cli.parse import Arguments, parse
from dynconv.cli.terminal import filled
from dynconv.training.presets import PRESETS


class PresetsArguments(Arguments):
    """Shows each with its command, machine, time and accuracy."""


def run(words: Sequence[str]) -> int:
    """Prints each preset with its docstring: machine, time and accuracy."""
    parse(PresetsArguments, words, "presets")
    for name, preset in PRESETS.items():
        print(f"{name}\n{filled(inspect.getdoc(preset) or '', '  ')}\n")
    return 0
