"""Where the time of a training step goes, part by part, beside what the machine can multiply."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from dynconv.layer.conv import DynamicConv2d
from dynconv.layer.routing import Router
from dynconv.model.net import Block, Head, InputTransform, Net

EXPERTS = "experts: mixing and convolutions"
_PREFIX = "dynconv part: "
_PARTS = {
    InputTransform: "input transform",
    DynamicConv2d: EXPERTS,
    Router: "routers",
    Block: "pooling, normalisation, GELU, residuals",
    Head: "head",
}
_STEPS = 3
_SIDE = 1024
"""Of the matrices by which the machine's peak is measured."""


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Counts what is done within as a part of the step, its backward pass included."""
    with record_function(_PREFIX + name):
        yield


def shares(step: Callable[[], object], net: Net) -> tuple[dict[str, float], float]:
    """The share of each part in the time of a step, the largest first; and the seconds of a step while it is measured.

    Args:
        step: does one step with `net`, on a CPU; names with `part` what is done outside of the network's modules.
    """
    opened: list[record_function] = []
    handles = []
    for module in net.modules():
        name = _PARTS.get(type(module))
        if name is not None:
            handles.append(module.register_forward_pre_hook(_opening(name, opened)))
            handles.append(module.register_forward_hook(lambda *_: opened.pop().__exit__(None, None, None)))
    try:
        step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(_STEPS):
                step()
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, float] = defaultdict(float)
    events = profiler.events() or []
    forward = {event.sequence_nr: name for event in events if event.sequence_nr >= 0 and (name := _part(event, {}))}
    for event in events:
        found[_part(event, forward) or "other"] += event.self_cpu_time_total
    total = sum(found.values())
    by_share = sorted(((name, taken / total) for name, taken in found.items()), key=lambda item: -item[1])
    return dict(by_share), 1e-6 * total / _STEPS


def _opening(name: str, opened: list[record_function]) -> Any:
    def enter(*_: Any) -> None:
        opened.append(record_function(_PREFIX + name))
        opened[-1].__enter__()

    return enter


def _part(event: FunctionEvent, forward: Mapping[int, str]) -> str:
    """The innermost part that an event lies in; for one of the backward pass, that of its forward operation.

    Args:
        forward: the parts of the operations by the numbers that autograd gives them.
    """
    inner: FunctionEvent | None = event
    while inner is not None:
        if inner.name.startswith(_PREFIX):
            return str(inner.name.removeprefix(_PREFIX))
        if inner.name.startswith("Optimizer.step"):
            return "optimizer"
        if inner.name.startswith("autograd::engine"):
            return forward.get(inner.sequence_nr, "")
        inner = inner.cpu_parent
    return ""


def peak(dtype: torch.dtype) -> float:
    """Multiply-adds a second in torch's product of two large matrices, the most of some tries."""
    a, b = (torch.randn(_SIDE, _SIDE).to(dtype) for _ in range(2))
    least = min(_seconds_of_product(a, b) for _ in range(10))
    return float(_SIDE**3 / least)


def _seconds_of_product(a: Tensor, b: Tensor) -> float:
    began = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - began
