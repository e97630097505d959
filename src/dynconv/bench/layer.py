"""Time and memory of one dynamic convolution: every algorithm, a static convolution, and other libraries' form.

All methods of a cell (shape, experts, type) take turns, so other load on the machine affects them alike; figures are
medians over the rounds. Memory is what a forward and backward pass needs beyond its inputs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.artifacts.files import write_text
from dynconv.bench.shapes import Shape, shapes
from dynconv.bench.turns import HOPELESS, medians
from dynconv.layer import choice
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.geometry import Geometry
from dynconv.layer.measured import seconds_of
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops import depthwise, fused, winograd
from dynconv.model.config import ModelConfig

Method = Callable[[Tensor, Tensor, Tensor, Shape], Tensor]
BASELINES = ("static", "loop", "grouped")


def _static(x: Tensor, weight: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """One convolution, no mixture: the floor."""
    return F.conv2d(x, weight[0], None, shape.stride, shape.kernel // 2, groups=shape.groups)


def _loop(x: Tensor, weight: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """The equation as a student writes it."""
    outputs = [F.conv2d(x, expert, None, shape.stride, shape.kernel // 2, groups=shape.groups) for expert in weight]
    return torch.stack([a[:, k, None, None, None] * out for k, out in enumerate(outputs)]).sum(0)


def _grouped(x: Tensor, weight: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """A kernel mixed for each image, one group per image: the form of timm's CondConv2d and of the published layers."""
    n, channels, height, width = x.shape
    mixed = (a @ weight.flatten(1)).view(n * shape.out_channels, *weight.shape[2:])
    maps, groups = x.reshape(1, n * channels, height, width), n * shape.groups
    out = F.conv2d(maps, mixed, None, shape.stride, shape.kernel // 2, groups=groups)
    return out.permute(1, 0, 2, 3).view(n, shape.out_channels, out.shape[-2], out.shape[-1])


def _algorithm(name: str) -> Method:
    def run(x: Tensor, weight: Tensor, a: Tensor, shape: Shape) -> Tensor:
        return mix_convolutions(
            x,
            weight,
            a,
            stride=shape.stride,
            padding=shape.kernel // 2,
            groups=shape.groups,
            algorithm=name,
        )

    return run


def measure(
    sets: Sequence[str],
    models: Mapping[str, ModelConfig],
    experts: Sequence[int],
    dtypes: Sequence[str],
    batch: int,
    rounds: int,
    device: torch.device,
    cells: list[dict[str, Any]],
    about: Mapping[str, Any],
    done: Callable[[dict[str, Any], int, int], None],
) -> list[dict[str, Any]]:
    """Measures cells that are not among `cells` yet; calls `done(cell, number, total)` after each.

    Args:
        sets: of shapes; `models` are the presets' networks by name.
        about: what to note in each cell that is measured.

    Returns:
        All of them, the earlier ones included.
    """
    wanted = [
        (name, shape, k, dtype) for name in sets for shape in shapes(name, models) for dtype in dtypes for k in experts
    ]
    known = {(cell["set"], cell["shape"], cell["experts"], cell["dtype"]): cell for cell in cells}
    found = []
    for number, (name, shape, k, dtype) in enumerate(wanted, start=1):
        cell = known.get((name, str(shape), k, dtype))
        if cell is None:
            head = {"set": name, "shape": str(shape), **asdict(shape), "experts": k, "dtype": dtype, "batch": batch}
            cell = (
                head | dict(about) | {"methods": _measure_cell(shape, k, getattr(torch, dtype), batch, rounds, device)}
            )
        geometry = {mode: geometry_of(cell, device.type, mode == "training") for mode in ("inference", "training")}
        cell["auto"] = {mode: choice.choose(g) for mode, g in geometry.items()}
        found.append(cell)
        done(cell, number, len(wanted))
    return found


def geometry_of(cell: dict[str, Any], device: str, training: bool) -> Geometry:
    """The geometry of a measured cell."""
    kernel, stride, padding = cell["kernel"], cell["stride"], cell["kernel"] // 2
    return Geometry(
        cell["batch"], cell["in_channels"], (cell["size"],) * 2, cell["out_channels"], cell["experts"],
        (kernel, kernel), (stride, stride), (padding, padding), (1, 1), cell.get("groups", 1),
        getattr(torch, cell["dtype"]), device, training,
    ).computed()  # fmt: skip


def _measure_cell(
    shape: Shape, experts: int, dtype: torch.dtype, batch: int, rounds: int, device: torch.device
) -> dict[str, dict[str, float | None]]:
    torch.manual_seed(0)
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    x = torch.randn(batch, shape.in_channels, shape.size, shape.size, **options)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    channels = shape.in_channels // shape.groups
    weight = torch.randn(experts, shape.out_channels, channels, shape.kernel, shape.kernel, **options)
    weight = (weight * channels**-0.5 / shape.kernel).requires_grad_()
    a = torch.rand(batch, experts, **options).softmax(1).requires_grad_()
    methods: dict[str, Method] = {"static": _static, "loop": _loop, "grouped": _grouped}
    padding = shape.kernel // 2
    geometry = Geometry.of(x, weight, (shape.stride,) * 2, (padding,) * 2, (1, 1), shape.groups)
    methods |= {
        name: _algorithm(name) for name in ALGORITHMS if choice.obstacle(name, geometry) in ("", choice.UNTIMED)
    }
    direction = torch.randn_like(_static(x, weight, a, shape))

    def inference(method: Method) -> None:
        with torch.no_grad():
            method(x, weight, a, shape)

    def training(method: Method) -> None:
        torch.autograd.grad(method(x, weight, a, shape), (x, weight, a), direction, allow_unused=True)

    found: dict[str, dict[str, float | None]] = {name: {} for name in methods}
    for name, method in methods.items():
        with _peak_memory(device) as mebibytes:
            training(method)
        found[name]["peak_mib"] = mebibytes()
    for mode, run in (("inference", inference), ("training", training)):
        timed = {
            name: partial(seconds_of, partial(run, method), 5e-3, partial(_wait, device))
            for name, method in methods.items()
        }
        for name, seconds in medians(timed, rounds, HOPELESS).items():
            found[name][f"{mode}_ms"] = 1e3 * seconds
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Memory that the block needed on top of what was in use, in MiB; None if the system does not say."""
    peak: list[float | None] = [None]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: peak[0]
        peak[0] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    for operator in (depthwise, fused, winograd):
        operator.library.release_workspace()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use
        resident = _status("VmRSS")
    yield lambda: peak[0]
    with contextlib.suppress(OSError, UnboundLocalError):
        peak[0] = (_status("VmHWM") - resident) / 2**10


def _status(name: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def write_cells(path: Path, about: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    """Writes the measurement as JSON, one cell a line. Raises DynconvError where that is impossible."""
    lines = ",\n".join(f"  {json.dumps(cell)}" for cell in cells)
    head = json.dumps(about, indent=1)[:-2]
    text = f'{head},\n "cells": [\n{lines}\n]}}\n'
    write_text(path, text)
