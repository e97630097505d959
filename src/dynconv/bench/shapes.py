"""The convolutions to measure: those of the presets, of published networks, and a series of ever smaller maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from dynconv.layer.conv import DynamicConv2d
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net


@dataclass(frozen=True)
class Shape:
    """One square convolution: in_channels x size x size -> out_channels, padded to keep the size at stride 1."""

    in_channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int
    groups: int = 1

    def __str__(self) -> str:
        kind = f"{self.kernel}x{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")
        kind += f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{self.in_channels}->{self.out_channels} {kind} @{self.size}"


ShapeSet = Literal["quick", "standard", "resnet18-32", "resnet18-56", "mobilenet", "resnext", "maps", "small"]
MAPS = ((24, 64, 31), (64, 64, 15), (128, 128, 16), (256, 256, 8), (256, 256, 4))
"""The shapes of `maps`, 3x3 at stride 1: channels in, channels out and side, from large maps to deep ones."""

SMALL = tuple((channels, channels, size) for size in (1, 2, 3, 4) for channels in (64, 112, 256, 512))
"""The shapes of `small`, 3x3 at stride 1: maps that are hardly larger than the kernel, or smaller."""

_SERIES = {"maps": MAPS, "small": SMALL}

MOBILENET = (
    (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2), (384, 14, 1), (576, 14, 1),
    (576, 14, 2), (960, 7, 1),
)  # fmt: skip
"""The depthwise convolutions of MobileNetV2 on images of 224 pixels, 3x3: channels, side and stride."""

RESNEXT = (
    (128, 128, 56, 3, 1, 32), (256, 256, 56, 3, 2, 32), (256, 256, 28, 3, 1, 32), (512, 512, 28, 3, 2, 32),
    (512, 512, 14, 3, 1, 32), (1024, 1024, 14, 3, 2, 32), (1024, 1024, 7, 3, 1, 32),
    (96, 96, 56, 3, 1, 2), (192, 192, 28, 3, 1, 4), (432, 432, 14, 3, 1, 9), (1008, 1008, 7, 3, 1, 21),
    (60, 240, 28, 1, 1, 3), (480, 120, 14, 1, 1, 3),
)  # fmt: skip
"""Grouped convolutions on images of 224 pixels: all of ResNeXt-50 32x4d, those of RegNetX-3.2GF at stride 1, and two of
ShuffleNet's with three groups: channels in, channels out, side, kernel, stride and groups."""


def shapes(name: str, models: Mapping[str, ModelConfig]) -> list[Shape]:
    """The different convolutions of a set, from the first layer to the last; `models` are the presets'."""
    if name in _SERIES:
        return [Shape(*shape, kernel=3, stride=1) for shape in _SERIES[name]]
    if name == "mobilenet":
        return [Shape(channels, channels, size, 3, stride, channels) for channels, size, stride in MOBILENET]
    if name == "resnext":
        return [Shape(*shape) for shape in RESNEXT]
    found = (
        _of_resnet18(int(name.removeprefix("resnet18-"))) if name.startswith("resnet18-") else _of_preset(models[name])
    )
    return list(dict.fromkeys(found))


def _of_preset(model: ModelConfig) -> list[Shape]:
    net = Net(model, 10)
    net.input.fit(torch.rand(2, 3, 32, 32))
    found: list[Shape] = []

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, DynamicConv2d)
        _, channels, size, _ = inputs[0].shape
        found.append(Shape(channels, layer.weight.shape[1], size, layer.kernel_size[0], layer.stride[0]))

    for layer in net.modules():
        if isinstance(layer, DynamicConv2d):
            layer.register_forward_pre_hook(note)
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 32, 32))
    return found


def _of_resnet18(size: int) -> list[Shape]:
    """Its four stages, the first on maps of size x size (56 for ImageNet)."""
    found = [Shape(64, 64, size, 3, 1)]
    for channels in (64, 128, 256):
        wider = 2 * channels
        found += [Shape(channels, wider, size, 3, 2), Shape(channels, wider, size, 1, 2)]
        size //= 2
        found.append(Shape(wider, wider, size, 3, 1))
    return found
