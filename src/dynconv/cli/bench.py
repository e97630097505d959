"""`dynconv bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field
from rich.console import Console
from tyro.conf import Positional

from dynconv.artifacts.found_weights import DEFAULT
from dynconv.bench.run import Request
from dynconv.bench.run import run as measure
from dynconv.bench.shapes import ShapeSet
from dynconv.bench.step import Recipe
from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.training.config import TrainConfig
from dynconv.training.optim import build_optimizers
from dynconv.training.presets import PRESETS


class BenchArguments(Arguments):
    """`layer` compares every algorithm, a static convolution, a loop over K convolutions and the grouped form of other
    libraries: time, forward and with gradients, and memory. `step` times a training step, `predict` the way from PNG
    files to classes. `infer` runs a network in torch, eager and compiled, and in onnxruntime, in float32 and int8.
    `serve` measures requests/s, latency and memory with batches and with one image at a time, with 1, 8 and 64 clients.
    Do not use the machine for anything else meanwhile.
    """

    what: Annotated[
        Positional[Literal["layer", "step", "predict", "infer", "serve"]],
        tyro.conf.arg(metavar="{layer,step,predict,infer,serve}"),
    ]
    """What to measure."""
    shapes: tuple[ShapeSet, ...] = (
        "quick",
        "standard",
        "resnet18-32",
        "resnet18-56",
    )
    """layer: the convolutions of a preset, of ResNet-18 with a first stage of 32x32 or 56x56, of five map sizes,
    of maps of up to 4x4, the depthwise ones of MobileNetV2, or the grouped ones of ResNeXt and others."""
    experts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8)
    """layer, step: numbers of experts."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """layer, step: number types; in a step, bfloat16 means autocast."""
    preset: Literal["quick", "standard", "accurate"] = "standard"
    """step: the network."""
    model: Path = Path(DEFAULT)
    """predict, infer, serve: run directory, weights file, or accurate or standard for packaged weights."""
    batch: Annotated[int, Field(ge=1)] = 32
    """layer, step, infer: images per batch. `infer` also measures a batch of one image."""
    rounds: Annotated[int, Field(ge=1)] = 5
    """Number of rounds in which each method is timed once; the median is reported."""
    output: Path | None = None
    """JSON file for the figures; `layer` adds to what the file already holds, and draws a plot beside it."""
    allow_uncommitted: bool = False
    """Write --output even if the checkout has uncommitted changes, so that no commit describes what was measured."""


def run(words: Sequence[str]) -> int:
    """Measures, prints tables, and writes JSON and a plot if requested."""
    arguments = parse(BenchArguments, words, "bench")
    show_messages()
    recipes = {name: _recipe(name, preset()) for name, preset in PRESETS.items()}
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in measure(Request(**dict(arguments), recipes=recipes)):
        console.print(part, highlight=False)
    return 0


def _recipe(name: str, config: TrainConfig) -> Recipe:
    optimizers = partial(build_optimizers, config=config.optim)
    return Recipe(name, config.model, config.image_sizes[-1], config.augment, optimizers)
