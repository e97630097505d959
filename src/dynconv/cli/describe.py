"""`dynconv describe`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from dynconv.cli.settings import DescribeArguments, parse_training
from dynconv.model.describe import describe


def run(words: Sequence[str]) -> int:
    """Prints a network as a table."""
    config = parse_training(DescribeArguments, words, "describe").settings
    Console().print(describe(config.preset, config.model, also=config.image_sizes), highlight=False)
    return 0
