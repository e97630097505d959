"""What a network with dynamic layers costs: parameters and multiply-adds, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynconv.layer.conv import DynamicConv

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LayerCount:
    """One layer.

    Attributes:
        name: in the network.
        kind: the name of its class.
        shape: of its output; of the last, if it is called several times.
        parameters: all, frozen ones included.
        learned: those that are not frozen.
        multiply_adds: what the layer needs, in a forward pass: of a dynamic layer its router, mixing one kernel per
            sample, and one convolution.
        computed: the multiply-adds that torch counts in what was computed, which depends on the algorithm.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    learned: int
    multiply_adds: int
    computed: int


@dataclass(frozen=True)
class NetworkCount:
    """A network's layers in the order of their first call; prints as a table.

    Attributes:
        layers: dynamic, convolutional and linear ones.
        parameters, learned: of the whole network.
        multiply_adds: of all layers.
        computed: of the whole network, products outside these layers included.
    """

    layers: tuple[LayerCount, ...]
    parameters: int
    learned: int
    multiply_adds: int
    computed: int

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters", "multiply-adds", "computed")]
        rows += [
            (layer.name, layer.kind, "x".join(map(str, layer.shape)), f"{layer.parameters:,}",
             f"{layer.multiply_adds:,}", f"{layer.computed:,}")
            for layer in self.layers
        ]  # fmt: skip
        rows.append(("whole", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", f"{self.computed:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
            cells += [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def count(net: nn.Module, inputs: Sequence[int] | Tensor) -> NetworkCount:
    """Counts in one forward pass without gradients, in evaluation mode. Leaves the network as it was.

    Args:
        net: any network of dynamic, convolutional and linear layers.
        inputs: its input, or the shape of one, (N, C, *size), which is filled with zeros of the parameters' type. The
            multiply-adds are those of the whole batch.
    """
    x = inputs if isinstance(inputs, Tensor) else _zeros(net, inputs)
    layers = _layers(net)
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    was_training = {module: module.training for module in net.modules()}
    with FlopCounterMode(display=False) as counter:
        handles = []
        for name, layer in layers.items():
            before, after = _hooks(name, layer, counter, found)
            handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
        try:
            with torch.no_grad():
                net.eval()(x)
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in was_training.items():
                module.training = mode
    counts = tuple(
        LayerCount(
            name, type(layers[name]).__name__, shape, _size(layers[name]), _size(layers[name], learned=True), needed,
            computed,
        )
        for name, (shape, needed, computed) in found.items()
    )  # fmt: skip
    total = sum(layer.multiply_adds for layer in counts)
    return NetworkCount(counts, _size(net), _size(net, learned=True), total, counter.get_total_flops() // 2)


def _zeros(net: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(tuple(shape), device=like.device, dtype=like.dtype)


def _layers(net: nn.Module) -> dict[str, nn.Module]:
    """The layers that multiply, by name; the routers' own belong to their dynamic layer."""
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in net.named_modules():
        if isinstance(module, DynamicConv):
            inside.update(module.router.modules())
        if module not in inside and isinstance(module, (DynamicConv, *_CONVOLUTIONS, nn.Linear)):
            found[name or type(module).__name__] = module
    return found


def _hooks(
    name: str, layer: nn.Module, counter: FlopCounterMode, found: dict[str, tuple[tuple[int, ...], int, int]]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """What to call before and after the layer, to note its output's shape, what it needs and what is computed."""
    begun: list[int] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        begun.append(counter.get_total_flops())

    def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        _, needed, computed = found.get(name, ((), 0, 0))
        needed += _needed(layer, out)
        found[name] = tuple(out.shape), needed, computed + (counter.get_total_flops() - begun.pop()) // 2

    return before, after


def _needed(layer: nn.Module, out: Tensor) -> int:
    """Multiply-adds of the layer, by the shape of its output."""
    if isinstance(layer, nn.Linear):
        return out.numel() * layer.in_features
    if isinstance(layer, DynamicConv):
        samples = out.shape[0] if out.dim() == layer.dims + 2 else 1
        router = sum(part.weight.numel() for part in layer.router.modules() if isinstance(part, nn.Linear))
        mixing = layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())
        return samples * (router + mixing) + out.numel() * math.prod(layer.weight.shape[2:])
    assert isinstance(layer, _CONVOLUTIONS)
    return out.numel() * math.prod(layer.weight.shape[1:])


def _size(module: nn.Module, learned: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learned)
