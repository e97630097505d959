"""A network of one's own, made dynamic, in other runtimes: any number of images, the same outputs."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from dynconv.layer import DynamicConv2d, convert, exportable


class Bottleneck(nn.Module):
    """A block as ResNets have it, with a strided shortcut."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    static = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Bottleneck(16, 32, 2), Bottleneck(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    dynamic = convert(static, experts=3)
    for layer in dynamic.modules():
        if isinstance(layer, DynamicConv2d):
            nn.init.normal_(layer.router.linear.weight)
    return dynamic.eval()


@pytest.mark.parametrize("algorithm", ["output", "input"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch's exporter itself
def test_onnx_takes_any_number_of_images(net: nn.Module, algorithm: str) -> None:
    with exportable(net, algorithm):
        exported = torch.onnx.export(
            net, (torch.randn(2, 3, 16, 16),), dynamo=True, verbose=False, opset_version=18, input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert exported is not None
    stream = io.BytesIO()
    exported.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    for images in (1, 7, 64):
        x = torch.randn(images, 3, 16, 16)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_torch_export_takes_any_number_of_images(net: nn.Module) -> None:
    with exportable(net):
        program = torch.export.export(
            net, (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    assert not any("dynconv" in str(node.target) for node in program.graph.nodes), "an operator that others lack"
    for images in (1, 7, 64):
        x = torch.randn(images, 3, 16, 16)
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-3, atol=1e-4)


def test_layers_get_their_algorithms_back(net: nn.Module) -> None:
    def algorithms() -> set[str]:
        return {module.algorithm for module in net.modules() if isinstance(module, DynamicConv2d)}

    with exportable(net):
        assert algorithms() == {"output"}
    assert algorithms() == {"auto"}
    with pytest.raises(ValueError, match="x: needs"), exportable(net):
        net(torch.randn(2, 4, 16, 16))  # of four channels
    assert algorithms() == {"auto"}
    with pytest.raises(ValueError, match="algorithm: must be 'input' or 'output'"), exportable(net, "kernel"):
        pass
