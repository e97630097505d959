"""A measurement from its request to its printed lines and its JSON file."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import RenderableType

from dynconv.artifacts.commit import git_commit, require_committed
from dynconv.artifacts.environment import environment
from dynconv.artifacts.files import write_atomically, write_text
from dynconv.bench import infer, layer, predict, report, serve, step
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.machine import pick_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to measure; see `dynconv bench --help`. `recipes` are the presets by name."""

    what: Literal["layer", "step", "predict", "infer", "serve"]
    shapes: Sequence[str]
    experts: Sequence[int]
    dtypes: Sequence[str]
    preset: str
    model: Path
    batch: int
    rounds: int
    output: Path | None
    allow_uncommitted: bool
    recipes: Mapping[str, step.Recipe]


def run(request: Request) -> Iterator[RenderableType]:
    """Measures, writes the output if there is one, and yields what to print.

    Raises:
        DynconvError: the output cannot be read or written or is another machine's, or the checkout has uncommitted
            changes.
    """
    if request.output:  # found out now, not after minutes of measuring
        _check_output(request.output)
        if not request.allow_uncommitted:
            require_committed(*_written(request.output))
    machine = _machine()
    parts: dict[str, Callable[..., Iterator[RenderableType]]] = {
        "layer": _layer, "step": _step, "predict": _predict, "infer": _infer, "serve": _serve,
    }  # fmt: skip
    yield from parts[request.what](request, machine)


def _layer(request: Request, machine: dict[str, Any]) -> Iterator[RenderableType]:
    cells = _earlier(request, machine)
    taken: list[dict[str, Any]] = []
    about: dict[str, Any] = {"machine": machine, "batch": request.batch, "rounds": request.rounds}
    measured = {"git_commit": _commit(request)}  # of each cell: a measurement can be continued at another commit

    def done(cell: dict[str, Any], number: int, total: int) -> None:
        taken.append(cell)
        logger.info(f"{number}/{total}  {cell['shape']}, K = {cell['experts']}, {cell['dtype']}")
        if request.output:
            layer.write_cells(request.output, about | {"summary": report.summary(taken)}, taken)

    models = {name: recipe.model for name, recipe in request.recipes.items()}
    layer.measure(
        request.shapes,
        models,
        request.experts,
        request.dtypes,
        request.batch,
        request.rounds,
        pick_device("auto"),
        cells,
        measured,
        done,
    )
    yield from report.tables(taken)
    yield report.sentence(report.summary(taken))
    if request.output:
        _, picture = _written(request.output)
        write_atomically(picture, lambda path: report.plot(taken, path))
        yield f"written: {request.output}, {picture}"


def _earlier(request: Request, machine: dict[str, Any]) -> list[dict[str, Any]]:
    if request.output is None or not request.output.exists():
        return []
    try:
        found = json.loads(request.output.read_text())
        same = (found["machine"]["processor"], found["batch"]) == (machine["processor"], request.batch)
        cells: list[dict[str, Any]] = found["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DynconvError(f"{request.output}: is not a measurement of the layer; choose another --output") from error
    if not same:
        raise DynconvError(f"{request.output}: is of another machine or batch size; choose another --output")
    return cells


def _step(request: Request, machine: dict[str, Any]) -> Iterator[RenderableType]:
    recipe = request.recipes[request.preset]
    logger.info(f"{recipe.name}, {recipe.image_size} px, batches of {request.batch}")
    found = step.measure_step(recipe, request.experts, request.dtypes, request.batch, request.rounds)
    for dtype, rates in found["types"].items():
        yield f"{dtype}, K = {recipe.model.experts_text}"
        own = rates["algorithms"]
        for name, rate in sorted(own.items(), key=lambda item: -item[1]):
            yield f"  {name:9s} {rate:7.1f} images/s  {own['auto'] / rate:5.2f} times as long as auto"
        first, first_rate = next(iter(rates["experts"].items()))
        for k, rate in rates["experts"].items():
            yield f"  {f'K = {k}':9s} {rate:7.1f} images/s  {first_rate / rate:5.2f} times as long as K = {first}"
        yield f"  a step with auto, K = {recipe.model.experts_text}:"
        for name, share in rates["parts"].items():
            yield f"  {share:6.1%}  {name}"
        yield (
            f"  the experts do {rates['experts_rate'] / 1e9:.0f} G multiply-adds/s, a product of two large matrices "
            f"{rates['peak_rate'] / 1e9:.0f} G"
        )
    yield from _write_figures(request, machine, found)


def _predict(request: Request, machine: dict[str, Any]) -> Iterator[RenderableType]:
    predictor = Predictor.load(request.model)
    logger.info(f"{request.model}, {predict.IMAGES} PNG files of 32x32 pixels, {predictor.precision}")
    found = predict.measure_predict(predictor, request.rounds)
    for name, rate in found["images_per_second"].items():
        yield f"{name:17s} {rate:7.0f} images/s"
    yield from _write_figures(request, machine, {"model": str(request.model)} | found)


def _infer(request: Request, machine: dict[str, Any]) -> Iterator[RenderableType]:
    predictor = Predictor.load(request.model, device="cpu")
    logger.info(f"{request.model}, images of 32x32 pixels, float32 and int8, {torch.get_num_threads()} threads")
    found = infer.measure_infer(predictor, request.batch, request.rounds)
    rates = found["images_per_second"]
    yield " " * 22 + "".join(f"{f'batch of {size}':>15s}" for size in next(iter(rates.values())))
    for name, by_size in rates.items():
        yield f"{name:22s}" + "".join(f"{rate:6.0f} images/s" for rate in by_size.values())
    yield from _write_figures(request, machine, {"model": str(request.model)} | found)


def _serve(request: Request, machine: dict[str, Any]) -> Iterator[RenderableType]:
    count = len(serve.CONCURRENCY) * len(serve.HANDLINGS)
    logger.info(f"{request.model}, {request.rounds} rounds of {count} loads of {serve.SECONDS:.0f} seconds")
    cells = serve.measure_serve(request.model, request.rounds)
    for cell in cells:
        yield (
            f"{cell['clients']:3} clients, {cell['handling']:13s} {cell['requests_per_second']:7.0f} requests/s   "
            f"p50 {cell['p50_ms']:7.1f} ms   p99 {cell['p99_ms']:7.1f} ms"
            + (f"   {cell['memory_mb']:.0f} MB" if cell["memory_mb"] else "")
        )
    yield from _write_figures(request, machine, {"model": str(request.model), "cells": cells})


def _write_figures(request: Request, machine: dict[str, Any], found: dict[str, Any]) -> Iterator[RenderableType]:
    if request.output:
        about = {"machine": machine, "git_commit": _commit(request), "rounds": request.rounds}
        text = json.dumps(about | found, indent=1) + "\n"
        write_text(request.output, text)
        yield f"written: {request.output}"


def _written(output: Path) -> tuple[Path, Path]:
    """The figures and their plot."""
    return output, output.with_suffix(".png")


def _commit(request: Request) -> str | None:
    return git_commit(*_written(request.output)) if request.output else git_commit()


def _check_output(path: Path) -> None:
    """Raises DynconvError where no file can be written."""
    try:
        if path.is_dir():
            raise DynconvError(f"{path}: is a folder; name a file in it: --output {path / 'figures.json'}")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise DynconvError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _machine() -> dict[str, Any]:
    about = environment("none").tree()
    names = ("processor", "instruction_sets", "cores", "threads", "gpus", "system", "python", "packages", "command")
    return {name: about[name] for name in names} | {"torch_threads": torch.get_num_threads()}
