"""What the layer, a training step, prediction, other runtimes and the server cost, measured side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import RenderableType

from dynconv.artifacts.rundir import environment
from dynconv.bench import infer, layer, predict, report, serve, step
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Classifier
from dynconv.machine import pick_device
from dynconv.training.presets import PRESETS


@dataclass(frozen=True)
class Request:
    """What to measure; see `dynconv bench --help`."""

    what: Literal["layer", "step", "predict", "infer", "serve"]
    shapes: Sequence[str]
    experts: Sequence[int]
    dtypes: Sequence[str]
    preset: str
    model: Path
    batch: int
    rounds: int
    output: Path | None


def run(
    request: Request, announce: Callable[[str], None], build_optimizers: step.BuildOptimizers
) -> Iterator[RenderableType]:
    """Measures, writes what is asked for and yields what to print; progress goes to `announce`.

    `build_optimizers` are those of training, of which this package knows nothing.

    Raises:
        DynconvError: the output cannot be read or written, or is that of another machine.
    """
    if request.output:  # found out now, not after minutes of measuring
        _write(request.output, lambda path: tempfile.TemporaryFile(dir=path.parent).close())
    machine = _machine()
    parts: dict[str, Callable[..., Iterator[RenderableType]]] = {
        "layer": _layer, "step": partial(_step, build_optimizers=build_optimizers), "predict": _predict,
        "infer": _infer, "serve": _serve,
    }  # fmt: skip
    yield from parts[request.what](request, machine, announce)


def _layer(request: Request, machine: dict[str, Any], announce: Callable[[str], None]) -> Iterator[RenderableType]:
    cells = _earlier(request, machine)
    taken: list[dict[str, Any]] = []
    about: dict[str, Any] = {"machine": machine, "batch": request.batch, "rounds": request.rounds}

    def done(cell: dict[str, Any], number: int, total: int) -> None:
        taken.append(cell)
        announce(f"{number}/{total}  {cell['shape']}, K = {cell['experts']}, {cell['dtype']}")
        if request.output:
            _write(
                request.output, lambda path: layer.write_cells(path, about | {"summary": report.summary(taken)}, taken)
            )

    layer.measure(
        request.shapes, request.experts, request.dtypes, request.batch, request.rounds, pick_device("auto"), cells, done
    )
    yield from report.tables(taken)
    yield report.sentence(report.summary(taken))
    if request.output:
        picture = request.output.with_suffix(".png")
        _write(picture, lambda path: report.plot(taken, path))
        yield f"written: {request.output}, {picture}"


def _earlier(request: Request, machine: dict[str, Any]) -> list[dict[str, Any]]:
    if request.output is None or not request.output.exists():
        return []
    try:
        found = json.loads(request.output.read_text())
        same = (found["machine"]["processor"], found["batch"]) == (machine["processor"], request.batch)
        cells: list[dict[str, Any]] = found["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DynconvError(f"{request.output}: is no measurement of the layer; choose another --output") from error
    if not same:
        raise DynconvError(f"{request.output}: is of another machine or batch size; choose another --output")
    return cells


def _step(
    request: Request, machine: dict[str, Any], announce: Callable[[str], None], build_optimizers: step.BuildOptimizers
) -> Iterator[RenderableType]:
    config = PRESETS[request.preset]()
    announce(f"{request.preset}, {config.image_sizes[-1]} px, batches of {request.batch}")
    found = step.measure_step(config, build_optimizers, request.experts, request.dtypes, request.batch, request.rounds)
    for dtype, rates in found["types"].items():
        yield f"{dtype}, K = {config.model.experts}"
        own = rates["algorithms"]
        for name, rate in sorted(own.items(), key=lambda item: -item[1]):
            yield f"  {name:9s} {rate:7.1f} images/s  {own['auto'] / rate:5.2f} times as long as auto"
        first, first_rate = next(iter(rates["experts"].items()))
        for k, rate in rates["experts"].items():
            yield f"  {f'K = {k}':9s} {rate:7.1f} images/s  {first_rate / rate:5.2f} times as long as K = {first}"
    yield from _write_figures(request, machine, found)


def _predict(request: Request, machine: dict[str, Any], announce: Callable[[str], None]) -> Iterator[RenderableType]:
    classifier = Classifier.load(request.model)
    announce(f"{request.model}, {predict.IMAGES} PNG files of 32x32 pixels, {classifier.precision}")
    found = predict.measure_predict(classifier, request.rounds)
    for name, rate in found["images_per_second"].items():
        yield f"{name:17s} {rate:7.0f} images/s"
    yield from _write_figures(request, machine, {"model": str(request.model)} | found)


def _infer(request: Request, machine: dict[str, Any], announce: Callable[[str], None]) -> Iterator[RenderableType]:
    classifier = Classifier.load(request.model, device="cpu")
    announce(f"{request.model}, images of 32x32 pixels, float32 and int8, {torch.get_num_threads()} threads")
    found = infer.measure_infer(classifier, request.batch, request.rounds, announce)
    rates = found["images_per_second"]
    yield " " * 22 + "".join(f"{f'batch of {size}':>15s}" for size in next(iter(rates.values())))
    for name, by_size in rates.items():
        yield f"{name:22s}" + "".join(f"{rate:6.0f} images/s" for rate in by_size.values())
    yield from _write_figures(request, machine, {"model": str(request.model)} | found)


def _serve(request: Request, machine: dict[str, Any], announce: Callable[[str], None]) -> Iterator[RenderableType]:
    count = len(serve.CONCURRENCY) * len(serve.HANDLINGS)
    announce(f"{request.model}, {request.rounds} rounds of {count} loads of {serve.SECONDS:.0f} seconds")
    cells = serve.measure_serve(request.model, request.rounds)
    for cell in cells:
        yield (
            f"{cell['clients']:3} clients, {cell['handling']:13s} {cell['requests_per_second']:7.0f} requests/s   "
            f"p50 {cell['p50_ms']:7.1f} ms   p99 {cell['p99_ms']:7.1f} ms"
        )
    yield from _write_figures(request, machine, {"model": str(request.model), "cells": cells})


def _write_figures(request: Request, machine: dict[str, Any], found: dict[str, Any]) -> Iterator[RenderableType]:
    if request.output:
        text = json.dumps({"machine": machine, "rounds": request.rounds} | found, indent=1) + "\n"
        _write(request.output, lambda path: path.write_text(text))
        yield f"written: {request.output}"


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise DynconvError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _machine() -> dict[str, Any]:
    about = environment("none")
    names = ("processor", "instruction_sets", "cores", "threads", "gpus", "system", "python", "packages", "command")
    return {name: about[name] for name in names} | {"torch_threads": torch.get_num_threads()}
