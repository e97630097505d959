"""Chooses the algorithm for `auto`: the fastest by measurement (measured.py), or else by prediction.

Predictions say which algorithms are worth measuring, and decide where nothing can be measured: under torch.compile and
torch.export, in transforms, on GPUs, and where deterministic algorithms are asked for. For each algorithm and number
type, with or without gradients, the model predicts the time for one image as

    log milliseconds = w . features

with the features of the algorithm's entry in `ALGORITHMS`: 1 and logs of shapes, so that the coefficients w are
exponents. choice.json holds the coefficients, fitted by `benchmarks/fit_choice.py` to measurements of `dynconv bench
layer` on the machine that the file names. They are convolutions of one group: for those of several, for maps of a few
pixels, and for bf16 where the processor has a matrix unit, rules say which was measured to be faster. For sequences,
volumes, and unmeasured number types and devices, a rule of thumb decides.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from importlib import resources
from itertools import chain

import torch

from dynconv.layer import measured
from dynconv.layer.algorithms import ALGORITHMS, UNTIMED
from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import fused
from dynconv.layer.ops.constant import constant

__all__ = ["UNTIMED", "Estimate", "Explanation", "choose", "explain", "obstacle"]

SMALL_MAP = 144
"""Where nothing was measured, `input` is taken for outputs of up to this many pixels, and `kernel` above."""

_WORTH_MEASURING = 2.5
"""How many times as long as the fastest an algorithm may be predicted to take."""

_FEW_PIXELS = 16
"""The largest output for which `pixel`, which has no prediction, is worth measuring."""


@dataclass(frozen=True)
class Estimate:
    """The expected performance of one algorithm.

    Attributes:
        algorithm: name of the algorithm.
        milliseconds: time for the whole batch; None if it was neither measured nor is there a prediction for this
            device and type.
        obstacle: why `auto` cannot take it here; empty if it can.
        measured: whether the time was measured on this machine, if for another number of images; else predicted.
    """

    algorithm: str
    milliseconds: float | None
    obstacle: str = ""
    measured: bool = False


@dataclass(frozen=True)
class Explanation:
    """What `auto` chooses for one geometry, and why; prints as a table.

    Attributes:
        geometry: the convolution.
        chosen: name of the algorithm.
        estimates: one for every algorithm, fastest first.
    """

    geometry: Geometry
    chosen: str
    estimates: tuple[Estimate, ...]

    def __str__(self) -> str:
        g = self.geometry
        size, out_size, kernel = (
            sep.join(map(str, s)) for sep, s in ((", ", g.size), (", ", g.out_size), ("x", g.kernel))
        )
        lines = [
            f"[{g.batch}, {g.in_channels}, {size}] -> [{g.batch}, {g.out_channels}, {out_size}], {g.experts} experts "
            f"{kernel}, {str(g.dtype).removeprefix('torch.')} on {g.device}, "
            f"{'forward and backward' if g.training else 'forward'}"
        ]
        for estimate in self.estimates:
            mark = "->" if estimate.algorithm == self.chosen else "  "
            known = "not predicted"
            if estimate.milliseconds is not None:
                known = f"{estimate.milliseconds:.3g} ms {'measured' if estimate.measured else 'expected'}"
            lines.append(f"{mark} {estimate.algorithm:9s} {estimate.obstacle or known}")
        return "\n".join(lines)


def choose(geometry: Geometry) -> str:
    """The algorithm that `auto` takes.

    Where it is predicted, the batch size matters only if it is too small for an operator or for `pixel`, so
    torch.compile makes one graph for all others.
    """
    if torch.onnx.is_in_onnx_export():
        return "input"  # the only one whose ONNX operations do not fix the batch size
    if torch.compiler.is_compiling() or not measured.applies(geometry):
        return _predicted(geometry)
    return _fastest(geometry, torch.get_num_threads())


@functools.lru_cache(maxsize=4096)
def _fastest(geometry: Geometry, threads: int) -> str:
    """By measurement, with this number of threads."""
    predicted, candidates = _predicted(geometry), _candidates(geometry)
    return measured.fastest(geometry, predicted, candidates) if len(candidates) > 1 else predicted


def _candidates(geometry: Geometry) -> list[str]:
    """The algorithms worth measuring: the predicted one, and those that could be faster."""
    g, predicted = geometry, _predicted(geometry)
    possible = [name for name in ALGORITHMS if name in _KNOWN and not obstacle(name, g)]
    if g.groups > 1:  # where torch's convolution with a group per image and channel is very slow
        return [name for name in possible if name == predicted or name not in ("kernel", "output", "pixel")]
    fitted = {name: _milliseconds_per_image(name, g) for name in _fitted(g) if name in possible}
    if not fitted:
        return [name for name in possible if name != "pixel" or g.out_pixels <= _FEW_PIXELS]
    most = _WORTH_MEASURING * min(fitted.values())
    candidates = [name for name in possible if name == predicted or fitted.get(name, most + 1) <= most]
    if g.out_pixels <= _FEW_PIXELS and "pixel" in possible and "pixel" not in candidates:
        candidates.append("pixel")
    return candidates


def _predicted(geometry: Geometry) -> str:
    """The algorithm that is expected to be the fastest."""
    by_rule = _by_measured_rule(geometry)
    if by_rule:
        return by_rule
    fitted = _fitted(geometry)
    if not fitted:
        return _by_rule(geometry)
    best, least = "", math.inf
    for name in fitted:  # torch.compile does not support min(..., key=...)
        if not obstacle(name, geometry) and _milliseconds_per_image(name, geometry) < least:
            best, least = name, _milliseconds_per_image(name, geometry)
    return best


def explain(geometry: Geometry) -> Explanation:
    """The choice for `geometry` with the times behind it; measures them first where `auto` would."""
    chosen = choose(geometry)
    candidates = _candidates(geometry) if measured.applies(geometry) else []
    found = measured.times_of(geometry, candidates) if len(candidates) > 1 else {}
    times = {name: time for name, time in found.items() if time is not None}
    estimates = []
    for name in ALGORITHMS:
        problem = obstacle(name, geometry)
        known = name in _fitted(geometry) and not _by_measured_rule(geometry)
        milliseconds = None
        if not problem and (name in times or (known and not times)):
            milliseconds = geometry.batch * (times.get(name) or _milliseconds_per_image(name, geometry))
        estimates.append(Estimate(name, milliseconds, problem, name in times))
    estimates.sort(key=lambda e: (bool(e.obstacle), math.inf if e.milliseconds is None else e.milliseconds))
    return Explanation(geometry, chosen, tuple(estimates))


def obstacle(algorithm: str, geometry: Geometry) -> str:
    """Why `auto` does not consider an algorithm for this geometry; empty if it does."""
    entry = ALGORITHMS[algorithm]
    return entry.obstacle(geometry) or entry.passed_over(geometry)


def _by_measured_rule(geometry: Geometry) -> str:
    return _by_few_pixels(geometry) or _by_groups(geometry) or _by_matrix_unit(geometry)


def _by_few_pixels(geometry: Geometry) -> str:
    """`pixel` for maps so small that much of a kernel lies on padding; empty for others.

    By `dynconv bench layer --shapes small` on an Intel Xeon with AMX; for up to 4 pixels also tried, without a record,
    with the same processor held down to AVX512-BF16 and to AVX2.
    """
    g = geometry
    if g.dims != 2 or max(g.kernel) == 1 or obstacle("pixel", g) or (g.experts == 1 and not g.training):
        return ""
    if g.out_pixels <= 4:
        return "pixel"
    wide = g.in_channels * g.out_channels >= (256 if g.training else 512) ** 2
    if g.out_pixels > 9 or not wide or not _fused_by_matrix_unit(g):
        return ""
    return "pixel" if g.batch >= 250 else ""


def _by_groups(geometry: Geometry) -> str:
    """The choice among grouped convolutions where an operator computes them; empty where none does."""
    if not obstacle("depthwise", geometry):
        return _for_depthwise(geometry)
    if geometry.groups > 1 and not obstacle("fused", geometry):
        return _for_groups(geometry)
    return ""


def _for_depthwise(geometry: Geometry) -> str:
    """By `dynconv bench layer --shapes mobilenet` on a CPU with AVX512-BF16."""
    slow_in_torch = geometry.dtype == torch.bfloat16 and max(geometry.stride) > 1
    return "depthwise" if geometry.experts > 1 or slow_in_torch else "input"


def _for_groups(geometry: Geometry) -> str:
    """By `dynconv bench layer --shapes resnext` on a CPU with AVX512-BF16."""
    slow_in_torch = max(geometry.stride) > 1 or geometry.in_channels // geometry.groups < 8
    if geometry.experts == 1:
        return "fused" if slow_in_torch else "input"
    return "unfold" if geometry.training and max(geometry.kernel) == 1 else "fused"


def _by_matrix_unit(geometry: Geometry) -> str:
    """The choice in bf16 on a processor with AMX; empty where `fused` would not use it.

    Measured on an Intel Xeon with AMX, forward and backward: 17 shapes from 1x1 to 31x31 pixels, K = 2, 4, 8: the
    fastest other algorithm, `pixel` aside, takes 0.97 to 12 times as long as `fused`. With K = 1 torch's static
    convolution is left its work, as the fitted model has it for the presets' shapes.
    """
    if not _fused_by_matrix_unit(geometry):
        return ""
    return "input" if geometry.experts == 1 else "fused"


def _fused_by_matrix_unit(geometry: Geometry) -> bool:
    return geometry.dtype == torch.bfloat16 and not obstacle("fused", geometry) and fused.by_matrix_unit(geometry)


def _by_rule(geometry: Geometry) -> str:
    return "input" if geometry.experts == 1 or geometry.out_pixels <= SMALL_MAP else "kernel"


def _milliseconds_per_image(algorithm: str, geometry: Geometry) -> float:
    g = geometry
    features = ALGORITHMS[algorithm].features(g)
    weights = [_coefficient(g.device, g.dtype, g.training, algorithm, i) for i in range(len(features))]
    return math.exp(sum(w * f for w, f in zip(weights, features, strict=True)))


def _fitted(geometry: Geometry) -> list[str]:
    """The algorithms whose times were measured in this number of dimensions, type and mode, on this device."""
    if geometry.dims != 2:
        return []
    return [name for name in ALGORITHMS if _has_coefficients(geometry.device, geometry.dtype, geometry.training, name)]


# Each number by itself, a constant of the graph: with dynamic=True, torch.compile takes floats in a list for variables.
@constant
def _coefficient(device: str, dtype: torch.dtype, training: bool, algorithm: str, index: int) -> float:
    return _MODEL[device, dtype, training][algorithm][index]


@constant
def _has_coefficients(device: str, dtype: torch.dtype, training: bool, algorithm: str) -> bool:
    return algorithm in _MODEL.get((device, dtype, training), {})


def _read_model() -> dict[tuple[str, torch.dtype, bool], dict[str, list[float]]]:
    file = json.loads(resources.files("dynconv.layer").joinpath("choice.json").read_text())
    return {
        (device, getattr(torch, dtype), mode == "training"): coefficients
        for device, dtypes in file["devices"].items()
        for dtype, modes in dtypes.items()
        for mode, coefficients in modes.items()
    }


_MODEL = _read_model()  # at import, which torch.compile does not trace

_KNOWN = {*chain.from_iterable(_MODEL.values()), "pixel", "depthwise"}
"""The algorithms that `auto` considers: those that the model or a rule knows."""
