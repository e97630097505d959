"""`dynconv sweep`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from dynconv.artifacts.environment import command_line
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.cli.settings import read_yaml
from dynconv.training.launch import Launch

if TYPE_CHECKING:
    from dynconv.sweep.run import Outcome


class SweepArguments(Arguments):
    """The best are those with the best score on images held out of training; the test set chooses nothing. The same
    command continues a sweep that was interrupted, and works on it together with others that are started meanwhile.
    """

    file: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE")]
    """YAML file that names the fields to search, see docs/sweep.md."""
    output: Path | None = None
    """Folder for runs and result. Default: sweeps/<name of FILE>."""
    storage: str | None = None
    """Database that records the trials, for workers that share no folder: postgresql://user@host/name, or another URL
    that SQLAlchemy takes. Default: a journal file in the folder."""
    data: str = "cifar10"
    """cifar10 (found or downloaded, else an error), shapes (generated), auto (any that is found or downloaded, else
    shapes), or a path."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    compile: bool = False
    """Compile the networks with torch.compile."""


def run(words: Sequence[str]) -> int:
    """Works on a sweep; prints the best trials, the next steps and, last, the sweep's folder."""
    arguments = parse(SweepArguments, words, "sweep")
    console = show_messages()

    from dynconv.sweep.config import parse as parse_sweep  # reports which package is missing
    from dynconv.sweep.run import run_sweep

    sweep = parse_sweep(read_yaml(arguments.file), f"{arguments.file}: ")
    folder = arguments.output or Path("sweeps") / arguments.file.stem
    launch = Launch(data=arguments.data, device=arguments.device, compile=arguments.compile)
    outcome = run_sweep(sweep, folder, arguments.storage, launch, console)
    _print_result(outcome, folder, arguments)
    if outcome.interrupted:
        return 130
    return 0 if outcome.result.ranked else 1


def _print_result(outcome: Outcome, folder: Path, arguments: SweepArguments) -> None:
    result = outcome.result
    if result.ranked:
        Console().print(result.table(), highlight=False)
    print(f"{len(result.rows)} trials: {result.counts}")
    print("next:")
    if outcome.interrupted:
        print(f"  {command_line()}    # the same command continues")
    if outcome.page:
        print(f"  open {outcome.page} in a browser")
    if result.ranked:
        print(" ", shlex.join(["dynconv", "train", "--config", str(folder / "best.yaml"), "--data", arguments.data]))
    print(folder)
