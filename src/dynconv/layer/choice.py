"""Which algorithm `auto` takes: the one that a model, fitted on measurements, predicts to be the fastest.

The model predicts the time of one image, for each algorithm, type of numbers, and with or without gradients, as

    log milliseconds = w . (1, log K, log C, log O, log L, log K log L, log(1 + 3 K / L), log kernel pixels, log stride)

with L output pixels. So its coefficients are exponents: of the shape, and of what mixing K experts adds to a
convolution of few pixels. For `winograd` the last two are replaced by the log of its best tile's cost. They stand in
choice.json, fitted by `benchmarks/fit_choice.py` to what `dynconv bench layer` measured on the machine that the file
names. Where nothing was measured (another type of numbers or device), a rule of thumb decides.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources

import torch

from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import fused, winograd

FIXED = ("kernel", "input", "output", "unfold", "fused", "winograd")
"""The algorithms themselves; `auto` is one of them."""


@dataclass(frozen=True)
class Estimate:
    """What is expected of one algorithm.

    Attributes:
        algorithm: its name.
        milliseconds: predicted for the whole batch; None where there is no prediction for this device and type.
        obstacle: why it cannot be used here; empty if it can.
    """

    algorithm: str
    milliseconds: float | None
    obstacle: str = ""


@dataclass(frozen=True)
class Explanation:
    """What `auto` chooses for one geometry, and by what; printed as a table.

    Attributes:
        geometry: the convolution.
        chosen: the algorithm.
        estimates: of every algorithm, the fastest first.
    """

    geometry: Geometry
    chosen: str
    estimates: tuple[Estimate, ...]

    def __str__(self) -> str:
        g = self.geometry
        lines = [
            f"[{g.batch}, {g.in_channels}, {g.height}, {g.width}] -> [{g.batch}, {g.out_channels}, {g.out_height}, "
            f"{g.out_width}], {g.experts} experts {g.kernel[0]}x{g.kernel[1]}, {str(g.dtype).removeprefix('torch.')} "
            f"on {g.device}, {'forward and backward' if g.training else 'forward'}"
        ]
        for estimate in self.estimates:
            mark = "->" if estimate.algorithm == self.chosen else "  "
            known = "not predicted" if estimate.milliseconds is None else f"{estimate.milliseconds:.3g} ms expected"
            lines.append(f"{mark} {estimate.algorithm:9s} {estimate.obstacle or known}")
        return "\n".join(lines)


def choose(geometry: Geometry) -> str:
    """The algorithm that `auto` takes. The batch size plays no part beyond "too small", so that torch.compile makes
    one graph for all others."""
    if torch.onnx.is_in_onnx_export():
        return "input"  # the only operations whose attributes do not hold the batch size
    if not _coefficients(geometry):
        return _by_rule(geometry)
    best, least = "", math.inf
    for name in _coefficients(geometry):  # torch.compile does not know min(..., key=...)
        if not obstacle(name, geometry) and _milliseconds_per_image(name, geometry) < least:
            best, least = name, _milliseconds_per_image(name, geometry)
    return best


def explain(geometry: Geometry) -> Explanation:
    """The choice for `geometry` with the predictions behind it."""
    estimates = []
    for name in FIXED:
        problem = obstacle(name, geometry)
        known = name in _coefficients(geometry)
        milliseconds = geometry.batch * _milliseconds_per_image(name, geometry) if known and not problem else None
        estimates.append(Estimate(name, milliseconds, problem))
    estimates.sort(key=lambda e: (bool(e.obstacle), math.inf if e.milliseconds is None else e.milliseconds))
    return Explanation(geometry, choose(geometry), tuple(estimates))


def obstacle(algorithm: str, geometry: Geometry) -> str:
    """Why `auto` does not consider an algorithm for this geometry; empty if it does."""
    if algorithm not in _OPERATORS:
        return ""
    operator = _OPERATORS[algorithm]
    if not operator.applies(geometry):
        return operator.DOMAIN
    if geometry.device == "cuda":
        return UNTIMED
    if geometry.batch * geometry.out_height * geometry.out_width < _MIN_PIXELS:
        return "too few pixels in the batch to pay for rearranging the experts"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms know no custom operators"
    return "" if operator.available() else operator.status()


UNTIMED = "not timed on a GPU yet, so only by name: algorithm='fused'"
"""The obstacle to `fused` on CUDA."""

_OPERATORS = {"fused": fused, "winograd": winograd}
_MIN_PIXELS = 256
_MIXING = 3.0  # a weight's multiply-add in mixing takes about as long as three in a convolution


def _by_rule(geometry: Geometry) -> str:
    small = min(geometry.out_height, geometry.out_width) <= 12
    return "input" if geometry.experts == 1 or small else "kernel"


def _milliseconds_per_image(algorithm: str, geometry: Geometry) -> float:
    weights: list[float] = _coefficients(geometry)[algorithm]
    return math.exp(sum(w * f for w, f in zip(weights, features(algorithm, geometry), strict=True)))


def features(algorithm: str, geometry: Geometry) -> tuple[float, ...]:
    """What the model multiplies its coefficients with."""
    g = geometry
    pixels = max(1, g.out_height) * max(1, g.out_width)
    common = (
        1.0,
        math.log(g.experts),
        math.log(g.in_channels / g.groups),
        math.log(g.out_channels),
        math.log(pixels),
        math.log(g.experts) * math.log(pixels),
        math.log(1 + _MIXING * g.experts / pixels),
    )
    if algorithm == "winograd":
        return *common, math.log(winograd.best_tile(g)[1])
    return *common, math.log(g.kernel[0] * g.kernel[1]), math.log(g.stride[0] * g.stride[1])


def _coefficients(geometry: Geometry) -> dict[str, list[float]]:
    return _MODEL.get((geometry.device, geometry.dtype, geometry.training), {})


def _read_model() -> dict[tuple[str, torch.dtype, bool], dict[str, list[float]]]:
    file = json.loads(resources.files("dynconv.layer").joinpath("choice.json").read_text())
    return {
        (device, getattr(torch, dtype), mode == "training"): coefficients
        for device, dtypes in file["devices"].items()
        for dtype, modes in dtypes.items()
        for mode, coefficients in modes.items()
    }


_MODEL = _read_model()  # at import, which torch.compile does not trace
