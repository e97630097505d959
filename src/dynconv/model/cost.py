"""The cost of a network for one image: learned parameters and multiply-adds of each layer, computed from the shapes.

Only the multiply-adds of linear maps are counted; normalisation, activations and pooling take few operations per value
and are ignored. The figures do not depend on the algorithm (`layer.algorithms`) that computes the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dynconv.layer.conv import DynamicConv2d
from dynconv.model.net import Block, Net, SqueezeExcite

Part = Literal["input", "router", "experts", "other", "head"]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        part: the part of the specification; "other" stands for the added components that the specification allows.
        block: number of the block, from 1; 0 outside the backbone.
        layer: short description.
        shape: shape of the output for one image, without the batch dimension.
        parameters: number of learned parameters.
        multiply_adds: multiply-adds for one image; for experts, those of mixing the kernels, then one convolution.
        separate_multiply_adds: the same, but with the experts as K convolutions whose outputs are mixed.
    """

    part: Part
    block: int
    layer: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    separate_multiply_adds: int


def multiply_adds(net: Net, image_size: int) -> list[Row]:
    """The layers of `net`, in order, for images of image_size x image_size pixels.

    Raises:
        ValueError: the image is too small: a block would have no output pixels.
    """
    side = image_size - 1 if net.input.whiten else image_size
    channels = net.input.channels
    fixed = channels * net.input.colours * 4 * side * side if net.input.whiten else 0
    name = "whitening 2x2, GELU" if net.input.whiten else "standardise"
    rows = [Row("input", 0, name, (channels, side, side), 0, fixed, fixed)]
    for number, block in enumerate(net.backbone, start=1):
        assert isinstance(block, Block)
        rows += _block_rows(block, number, side)
        side = rows[-1].shape[-1]
    return rows + _head_rows(net.head)


def total_multiply_adds(net: Net, image_size: int) -> int:
    """Multiply-adds of the whole network for one image; see `Row.multiply_adds`."""
    return sum(row.multiply_adds for row in multiply_adds(net, image_size))


def _block_rows(block: Block, number: int, side: int) -> list[Row]:
    conv = block.conv
    router = sum(layer.weight.numel() for layer in conv.router.modules() if isinstance(layer, nn.Linear))
    experts = conv.weight.shape[0]
    rows = [
        Row("router", number, _router_name(conv), (experts,), _learned(conv.router), router, router),
        _experts_row(conv, number, side),
    ]
    channels, side, _ = rows[-1].shape
    rest = {"pool": block.pool, "norm": block.norm, "act": block.act, "excite": block.excite, "dropout": block.dropout}
    names = [_extra_name(layer) for layer in rest.values() if not isinstance(layer, nn.Identity)]
    if isinstance(block.pool, nn.MaxPool2d):
        assert isinstance(block.pool.kernel_size, int)
        side //= block.pool.kernel_size
    if side < 1:
        raise ValueError(f"block {number} has no pixels left: larger images, fewer pools or strides")
    names += ["+ input" if block.scale is None else "scaled, + input"] if block.residual else []
    learned = sum(_learned(layer) for layer in rest.values()) + (block.scale is not None)
    products = sum(layer.weight.numel() for layer in block.excite.modules() if isinstance(layer, nn.Linear))
    return [*rows, Row("other", number, ", ".join(names), (channels, side, side), learned, products, products)]


def _experts_row(conv: DynamicConv2d, number: int, side: int) -> Row:
    experts, out_channels, _, kernel, _ = conv.weight.shape
    stride = conv.stride[0]
    assert isinstance(conv.padding, tuple)
    out_side = max(0, (side + 2 * conv.padding[0] - conv.dilation[0] * (kernel - 1) - 1) // stride + 1)
    pixels = out_side * out_side
    once = conv.weight[0].numel() * pixels
    biases = 0 if conv.bias is None else conv.bias.numel()
    learned = conv.weight.numel() + biases
    return Row(
        part="experts",
        block=number,
        layer=f"{experts} x conv {kernel}x{kernel}"
        + (f", stride {stride}" if stride > 1 else "")
        + (f", {conv.groups} groups" if conv.groups > 1 else ""),
        shape=(out_channels, out_side, out_side),
        parameters=learned,
        multiply_adds=learned + once,
        separate_multiply_adds=experts * (once + out_channels * pixels),
    )


def _head_rows(head: nn.Module) -> list[Row]:
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    rows = []
    for index, layer in enumerate(layers):
        products = layer.weight.numel()
        name = "linear" if index + 1 == len(layers) else "linear, ReLU"
        rows.append(Row("head", 0, name, (layer.out_features,), _learned(layer), products, products))
    return rows


def _router_name(conv: DynamicConv2d) -> str:
    hidden = "" if conv.router.hidden is None else f"linear {conv.router.hidden.out_features}, ReLU, "
    return f"{hidden}linear, {conv.router.gate}"


def _extra_name(layer: nn.Module) -> str:
    if isinstance(layer, nn.MaxPool2d):
        return f"max pool {layer.kernel_size}"
    if isinstance(layer, nn.Dropout2d):
        return f"dropout {layer.p:g}"
    if isinstance(layer, SqueezeExcite):
        return f"squeeze-and-excitation {layer.reduce.out_features}"
    return {"BatchNorm2d": "batch norm"}.get(type(layer).__name__, type(layer).__name__)


def _learned(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
