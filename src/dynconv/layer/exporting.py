"""Makes any network with dynamic layers exportable with a free batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from dynconv.layer.conv import DynamicConv


@contextmanager
def exportable(net: nn.Module, algorithm: str = "output") -> Iterator[nn.Module]:
    """Inside the context, every dynamic layer of `net` computes K convolutions whose outputs are combined.

    Other algorithms use one convolution group per sample, which fixes the batch size in ONNX
    (https://github.com/onnx/onnx/issues/3843), or operators that other runtimes do not have.

        with exportable(net.eval()):
            program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))

    Args:
        net: any network; its layers get their own algorithms back afterwards.
        algorithm: `output` or `input`, which both leave the batch size free. `input` combines the K inputs instead.

    Raises:
        ValueError: another algorithm.
    """
    if algorithm not in ("input", "output"):
        raise ValueError(f"algorithm: must be 'input' or 'output' to leave the batch size free, not {algorithm!r}")
    layers = {layer: layer.algorithm for layer in net.modules() if isinstance(layer, DynamicConv)}
    for layer in layers:
        layer.algorithm = algorithm
    try:
        yield net
    finally:
        for layer, own in layers.items():
            layer.algorithm = own
