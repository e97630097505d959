import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dynconv.layer import DynamicConv1d, DynamicConv2d, DynamicConv3d, convert, fold_batchnorm
from dynconv.layer.conv import DynamicConv
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net


class Residual(nn.Module):
    """A small net of the kinds of parts that pretrained ones have: strides, 1x1, a shared layer, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(8, 16, 1, stride=2)
        self.shared = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.again = self.shared
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.down(x) + self.skip(x))
        return self.head(self.again(self.shared(x)).mean((2, 3)))


def test_convert_keeps_the_outputs_and_the_original() -> None:
    torch.manual_seed(0)
    static = Residual().eval()
    before = copy.deepcopy(static.state_dict())
    x = torch.randn(4, 3, 12, 12)

    dynamic = convert(static, experts=3)

    torch.testing.assert_close(dynamic(x), static(x), rtol=1e-4, atol=1e-5)
    assert not any(type(module) is nn.Conv2d for module in dynamic.modules())
    assert dynamic.shared is dynamic.again and not dynamic.shared.training
    assert all(torch.equal(before[name], value) for name, value in static.state_dict().items())


def test_convert_where() -> None:
    dynamic = convert(Residual(), where=lambda name, conv: conv.kernel_size != (1, 1) and not name.startswith("stem"))

    assert [name for name, module in dynamic.named_modules() if isinstance(module, DynamicConv2d)] == ["down", "shared"]


def test_a_converted_net_trains_its_experts_apart() -> None:
    torch.manual_seed(0)
    dynamic = convert(Residual(), experts=2).train()
    optimizer = torch.optim.SGD(dynamic.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        dynamic(torch.randn(8, 3, 12, 12)).square().sum().backward()
        optimizer.step()

    routers = [module.router for module in dynamic.modules() if isinstance(module, DynamicConv2d)]
    assert all(router.linear.weight.abs().sum() > 0 for router in routers)


def test_convert_of_a_single_convolution() -> None:
    conv = nn.Conv2d(4, 4, 3)

    assert isinstance(convert(conv), DynamicConv2d)


@pytest.mark.parametrize("module", [nn.Linear(3, 3), DynamicConv2d(3, 3, 3)])
def test_convert_says_where_there_is_nothing_to_do(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="no Conv1d, Conv2d or Conv3d"):
        convert(module)


def trained(net: nn.Module, size: int = 16) -> nn.Module:
    """net with statistics, scales and routers as training leaves them: no defaults."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
        if isinstance(module, DynamicConv2d):
            nn.init.normal_(module.router.linear.weight)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, 3, size, size) * 2)
    return net.eval()


@pytest.mark.parametrize("activation", ["softmax", "sparsemax"])
@pytest.mark.parametrize("pools", [(2,), (1,)])
def test_folding_the_specified_network_keeps_its_outputs(activation: str, pools: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(widths=(8, 16, 16), experts=3, pools=pools, gate=activation, whiten=False)
    specified = Net(config, 10)
    specified.input.fit(torch.rand(8, 3, 16, 16))
    net = trained(specified)
    x = torch.rand(4, 3, 16, 16)

    folded = fold_batchnorm(net)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_folding_leaves_what_it_may_not_touch() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm = DynamicConv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.two, self.pool, self.negative = DynamicConv2d(8, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8)
            self.sigmoid, self.after = DynamicConv2d(8, 8, 1, gate="sigmoid"), nn.BatchNorm2d(8)
            self.shared, self.twice = DynamicConv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.one(x))
            x = self.negative(self.pool(self.two(x)))
            x = self.after(self.sigmoid(x))
            y = self.shared(x)
            return self.twice(y) + y

    net = trained(Net())
    nn.init.constant_(net.negative.weight, -1.0)
    x = torch.rand(4, 3, 16, 16)

    folded = fold_batchnorm(net)

    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["negative", "after", "twice"]


def test_folding_says_where_there_is_nothing_to_fold() -> None:
    with pytest.raises(ValueError, match="no batch normalisation follows"):
        fold_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))


def test_folding_says_that_a_network_cannot_be_traced() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot trace"):
        fold_batchnorm(Branches())


def test_what_is_frozen_stays_frozen() -> None:
    static = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3, bias=False))
    static[0].requires_grad_(False)
    static[1].bias.requires_grad_(False)

    dynamic = convert(static, experts=2, router_hidden=3)

    assert not any(p.requires_grad for p in dynamic[0].parameters())
    assert [name for name, p in dynamic[1].named_parameters() if not p.requires_grad] == ["bias"]
    assert all(p.requires_grad for p in dynamic[2].parameters())


def test_hooks_move_to_the_dynamic_layer() -> None:
    static = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    seen: list[str] = []
    conv = static[0]
    conv.register_forward_pre_hook(lambda module, args: seen.append(f"before {type(module).__name__}"))
    conv.register_forward_hook(lambda module, args, kwargs, out: seen.append("after"), with_kwargs=True)
    conv.register_forward_hook(lambda module, args, out: 2 * out)
    conv.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append("backward"))
    conv.register_state_dict_post_hook(lambda module, state, prefix, metadata: seen.append("state"))
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    expected = static(x)
    seen.clear()

    dynamic = convert(static)
    out = dynamic(x)
    out.sum().backward()
    dynamic.state_dict()

    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert seen == ["before DynamicConv2d", "after", "backward", "state"]


def test_convert_leaves_convolutions_whose_kernel_a_hook_computes() -> None:
    """Pruning makes the kernel from a mask before each call; the dynamic layer has no such kernel."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).requires_grad_(False)
    prune.random_unstructured(net[0], "weight", 0.5)
    net.requires_grad_(False)
    net(torch.randn(1, 3, 9, 9))  # recomputes the pruned kernel without gradients, so that the net can be copied

    dynamic = convert(net)

    assert type(dynamic[0]) is nn.Conv2d and type(dynamic[1]) is DynamicConv2d
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(dynamic(x), net(x), rtol=1e-4, atol=1e-5)


class Kinds(nn.Module):
    """Convolutions of every kind: 1 to 3 dimensions, a subclass that only has a name, one that computes otherwise."""

    class Named(nn.Conv2d):
        pass

    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.pad(x, (1, 0, 1, 0)))

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 3, 3, padding=1)
        self.named = self.Named(3, 8, 3)
        self.padded = self.Padded(8, 8, 2)
        self.sequence = nn.Conv1d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.volume(x[:, None]).amax(2)
        return self.sequence(self.padded(self.named(x)).flatten(2))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["volume", "named", "sequence"]),
        ("all but the first", ["named", "sequence"]),
        (["named"], ["named"]),
        ("sequence", ["sequence"]),
        (nn.Conv2d, ["named"]),
        (lambda name, conv: conv.in_channels < 8, ["volume", "named"]),
    ],
)
def test_convolutions_are_chosen_by_name_class_or_function(
    where: Any, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    static, x = Kinds(), torch.randn(2, 3, 9, 9)

    with caplog.at_level("INFO", "dynconv.layer.convert"):
        dynamic = convert(static, experts=2, where=where)

    assert [name for name, module in dynamic.named_modules() if isinstance(module, DynamicConv)] == expected
    torch.testing.assert_close(dynamic(x), static(x), rtol=1e-4, atol=1e-5)
    (said,) = caplog.messages
    assert said.startswith(f"{len(expected)} convolutions made dynamic; left as they are: ")
    assert "padded (Padded has a forward of its own)" in said
    assert ("`where` did not choose it" in said) == (len(expected) < 3)


@pytest.mark.parametrize("dims", [1, 3])
def test_batch_normalisation_of_sequences_and_volumes_is_folded(dims: int) -> None:
    torch.manual_seed(0)
    layer = {1: DynamicConv1d, 3: DynamicConv3d}[dims](3, 8, 3)
    norm, pool = getattr(nn, f"BatchNorm{dims}d")(8), getattr(nn, f"MaxPool{dims}d")(2)
    net = nn.Sequential(layer, pool, norm)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    nn.init.normal_(layer.router.linear.weight)
    x = torch.randn(2, 3, *(8,) * dims)

    folded = fold_batchnorm(net)

    assert isinstance(folded[2], nn.Identity)
    torch.testing.assert_close(folded(x), net.eval()(x), rtol=1e-4, atol=1e-4)


def test_view_after_a_converted_convolution_works_as_before() -> None:
    """Code written for a static net relies on the layout of its outputs."""
    torch.manual_seed(0)
    static = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    dynamic = convert(static)
    for images in (1, 2, 8, 32):
        x = torch.randn(images, 8, 32, 32)
        torch.testing.assert_close(dynamic(x).view(images, -1), static(x).view(images, -1), rtol=1e-4, atol=1e-5)
