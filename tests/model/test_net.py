"""The architecture is the specification's: on every preset, block by block."""

import copy

import numpy as np
import pytest
import torch
from equation import mixture, relative_error, with_gradients
from PIL import Image
from torch import nn

from dynconv.layer import DynamicConv2d
from dynconv.layer.routing import GATES
from dynconv.model.config import ModelConfig
from dynconv.model.net import Backbone, Block, Net
from dynconv.training.presets import PRESETS

MODELS = {name: make().model for name, make in PRESETS.items()}
MODELS["blocks that differ"] = ModelConfig(
    widths=(12, 12, 24, 24), pools=(2, 1, 1, 1), experts=(2, 3, 4, 2), kernel_sizes=(3, 5, 1, 3), groups=(1, 2, 3, 24),
    gate=("softmax", "l1", "tanh", "sparsemax"), router_hidden=(0, 5, 0, 0), squeeze_excite=(0, 3, 4, 0),
    residual=(True,), residual_scale=True,
)  # fmt: skip
MODELS["experts that differ"] = ModelConfig(
    widths=(12, 12), pools=(2, 1), experts=(4,), kernel_sizes=(5,), expert_kernel_sizes=(1, 3, 3, 5),
    expert_dilations=(1, 1, 2, 1),
)  # fmt: skip


def net_of(name: str) -> Net:
    torch.manual_seed(0)
    net = Net(MODELS[name], classes=10)
    net.input.fit(torch.rand(100, 3, 32, 32))
    for block in net.backbone:
        nn.init.normal_(block.conv.router.linear.weight, std=0.4)  # routing that differs between images
    return net


@pytest.mark.parametrize("name", MODELS)
def test_every_block_is_the_equation_forward_and_backward(name: str) -> None:
    """a = g(SpatialAveragePool(X) W), O = sum_k a_k Conv_k(X), written out with K convolutions in float64."""
    net, captured = net_of(name), []
    for block in net.backbone:
        block.conv.register_forward_hook(lambda layer, args, out: captured.append((layer, args[0], out)))
    net(torch.rand(3, 3, 32, 32) * torch.rand(3, 3, 1, 1))

    assert len(captured) == len(MODELS[name].widths)
    for layer, x_seen, out_seen in tuple(captured):  # calling a layer below captures again
        x = x_seen.detach().requires_grad_()
        parameters = [layer.weight, *layer.router.parameters(), *([layer.bias] if layer.bias is not None else [])]
        exact = [tensor.detach().double().requires_grad_() for tensor in (x, *parameters)]
        features, router = exact[0].mean((2, 3)), exact[2:] if layer.bias is None else exact[2:-1]
        if layer.router.hidden is not None:
            features = (features @ router[0].T + router[1]).clamp_min(0)
        a = GATES[layer.gate].function(features @ router[-2].T + router[-1])
        bias = None if layer.bias is None else exact[-1]
        convolution = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        kernels = exact[1] if layer.taps is None else exact[1] * layer.taps
        expected = mixture(exact[0], kernels, a, bias, **convolution)
        assert relative_error(out_seen, expected) < 1e-5
        assert a.std(0).min() > 1e-3, "the routing does not depend on the image, so the test would prove little"
        direction = torch.randn(expected.shape)
        found = with_gradients(x, parameters, layer(x), direction)
        for ours, theirs in zip(found, with_gradients(exact[0], exact[1:], expected, direction.double()), strict=True):
            # In float32; the sums in a router's gradient cancel to a thousandth of their terms.
            assert relative_error(ours, theirs) < 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_every_learned_convolution_is_an_expert_of_a_block_that_routes_on_its_own_input(name: str) -> None:
    net = net_of(name)
    experts = {id(block.conv.weight) for block in net.backbone}

    for path, parameter in net.named_parameters():
        if parameter.dim() > 2:
            assert id(parameter) in experts, path
        elif parameter.dim() == 2:
            added = ".router." in path or ".excite." in path or path.endswith("conv.bias")
            assert added or path.startswith("head."), path
    for module in net.modules():
        assert not isinstance(module, nn.modules.conv._ConvNd)
    assert all(type(block) is Block and isinstance(block.conv, DynamicConv2d) for block in net.backbone)
    assert not any(parameter.requires_grad for parameter in net.input.parameters())
    assert type(net.backbone) is Backbone and min(MODELS[name].experts) >= 2


@pytest.mark.parametrize("name", MODELS)
def test_each_routing_weight_belongs_to_its_own_image(name: str) -> None:
    """Changing one image changes the routing of no other."""
    net = net_of(name).eval()
    x = torch.rand(4, 3, 32, 32)
    changed = x.clone()
    changed[2] = 1 - changed[2]

    def routing(images: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handles = [b.conv.router.register_forward_hook(lambda _m, _a, out: seen.append(out)) for b in net.backbone]
        net(images)
        for handle in handles:
            handle.remove()
        return torch.stack([a.flatten(1).sum(1) if a.dim() > 2 else a[:, 0] for a in seen], 1)

    before, after = routing(x), routing(changed)
    torch.testing.assert_close(before[[0, 1, 3]], after[[0, 1, 3]])
    assert (before[2] != after[2]).any()  # a gate can be saturated


def test_the_head_takes_the_spatial_mean_of_the_last_block() -> None:
    net = net_of("basic").eval()
    x = torch.rand(2, 3, 32, 32)
    features = net.backbone(net.input(x))

    expected = features.mean((2, 3)) @ net.head.linear.weight.T + net.head.linear.bias
    torch.testing.assert_close(net(x), expected)


def test_basic_has_nothing_that_the_specification_does_not_name() -> None:
    kinds = {type(module).__name__ for block in net_of("basic").backbone for module in block.modules()}

    assert kinds <= {"Block", "DynamicConv2d", "Router", "Linear", "MaxPool2d", "ReLU", "Identity"}
    assert not net_of("basic").input.whiten


def test_every_component_can_be_configured() -> None:
    config = ModelConfig(
        widths=(8, 8, 16), kernel_sizes=(3, 1, 5), strides=(1, 1, 2), pools=(2, 1, 1), residual=(False, True, False),
        experts=3, gate="sparsemax", temperature=0.5, router_hidden=4, dropout=0.2, head_hidden=12,
        norm="batch", nonlinearity="relu",
    )  # fmt: skip
    net = Net(config, classes=7)
    net.input.fit(torch.rand(20, 3, 32, 32))
    out = net(torch.rand(4, 3, 32, 32))
    out.sum().backward()

    assert out.shape == (4, 7)
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    block, x = net.eval().backbone[1], torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x) - x, block.act(block.norm(block.conv(x))))
    with pytest.raises(ValueError, match="block 1 changes the shape"):
        Net(ModelConfig(widths=(8, 8), pools=(1,), residual=(True, False)), 10)


def test_a_single_true_adds_residuals_wherever_the_shapes_agree() -> None:
    net = Net(ModelConfig(widths=(8, 8, 8, 16), pools=(2, 1, 2, 1), residual=(True,)), 10)

    assert [block.residual for block in net.backbone] == [False, True, False, False]


def test_whitening_decorrelates_patches() -> None:
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(300, 3, 8, 8), (32, 32), mode="bilinear")
    net = Net(ModelConfig(widths=(8,), pools=(1,), whiten_eps=1e-12), 10)
    net.input.fit(smooth)
    standardised = (smooth - net.input.mean[:, None, None]) / net.input.std[:, None, None]
    responses = nn.functional.conv2d(standardised, net.input.whitening[:12]).transpose(0, 1).flatten(1).double()

    second_moment = responses @ responses.T / responses.shape[1]
    torch.testing.assert_close(second_moment, torch.eye(12, dtype=torch.float64), rtol=0, atol=0.02)
    assert torch.equal(net.input.whitening[12:], -net.input.whitening[:12])
    assert net.input(smooth).shape == (300, 24, 31, 31)


@pytest.mark.parametrize("whiten", [True, False])
def test_a_grey_network_sees_the_brightness_of_a_picture(whiten: bool) -> None:
    torch.manual_seed(0)
    net = Net(ModelConfig(grey=True, whiten=whiten, widths=(8,), pools=(4,)), 10)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    net.input.fit(images)
    net.eval()

    grey = np.stack([np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in images])
    as_pillow = torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1)

    assert net.input(images).shape[1] == (8 if whiten else 1)
    # Pillow rounds to whole numbers, by half a step of standardised brightness at most, which whitening amplifies.
    torch.testing.assert_close(net.input(images), net.input(as_pillow), rtol=0, atol=0.1)
    torch.testing.assert_close(net(images), net(as_pillow), rtol=0, atol=0.02)


def test_uint8_images_and_floats_between_0_and_1_are_the_same_to_the_network() -> None:
    net = net_of("quick").eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    torch.testing.assert_close(net(images), net(images.float() / 255))
    for from_bytes, from_floats in zip(net.routing_weights(images), net.routing_weights(images / 255), strict=True):
        torch.testing.assert_close(from_bytes, from_floats)


@pytest.mark.parametrize("whiten", [True, False])
def test_a_network_without_the_statistics_of_its_images_refuses_to_run_and_says_what_to_call(whiten: bool) -> None:
    config = ModelConfig(widths=(8,), pools=(4,), whiten=whiten)
    fitted, fresh, images = Net(config, 3), Net(config, 3), torch.rand(4, 3, 16, 16)
    with pytest.raises(RuntimeError, match=r"net\.input\.fit\(images\)"):
        fitted(images)
    fresh.load_state_dict(fitted.state_dict())  # of a network that has none either
    with pytest.raises(RuntimeError, match=r"net\.input\.fit\(images\)"):
        fresh(images)

    fitted.input.fit(images)
    fresh.load_state_dict(fitted.state_dict())

    assert torch.equal(fresh.eval()(images), fitted.eval()(images))
    assert torch.equal(copy.deepcopy(fitted)(images), fitted(images))


def test_one_entry_stands_for_all_blocks_and_each_block_can_have_its_own() -> None:
    same, own = ModelConfig(widths=(8, 8), pools=(2,), experts=3), MODELS["blocks that differ"]

    assert same.experts == (3,) and same.per_block("experts") == (3, 3) and same.experts_text == "3"
    assert own.per_block("experts") == (2, 3, 4, 2) and own.experts_text == "2, 3, 4, 2"
    net = Net(own, 10)
    assert [block.conv.experts for block in net.backbone] == [2, 3, 4, 2]
    assert [block.conv.groups for block in net.backbone] == [1, 2, 3, 24]
    with pytest.raises(ValueError, match=r"experts: has 3 entries, and model\.widths has 2, one per block"):
        ModelConfig(widths=(8, 8), pools=(2,), experts=(1, 2, 3))
    with pytest.raises(ValueError, match="groups: 5 does not divide"):
        Net(ModelConfig(widths=(8, 8), pools=(2,), groups=(1, 5)), 10)


def test_added_components_start_as_the_identity() -> None:
    """So they change what a network can learn, and not where it starts."""
    plain = ModelConfig(widths=(8, 8), pools=(2, 1), residual=(True,))
    with_more = plain.model_copy(update={"squeeze_excite": (4,), "residual_scale": True})
    torch.manual_seed(0)
    nets = [Net(plain, 3), Net(with_more, 3)]
    nets[1].load_state_dict(nets[0].state_dict(), strict=False)
    x = torch.rand(5, 3, 16, 16)
    for net in nets:
        net.input.fit(x)
        net.train()

    torch.testing.assert_close(nets[1](x), nets[0](x))
    assert nets[1].backbone[1].scale is not None and nets[1].backbone[0].scale is None
    nets[1](x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in nets[1].parameters() if parameter.requires_grad)


def test_identities_of_grouped_experts_pass_on_each_groups_channels() -> None:
    layer = DynamicConv2d(6, 9, 3, padding=1, groups=3, bias=False, experts=2)
    with torch.no_grad():
        layer.weight.zero_()
    layer.add_identity()
    x = torch.randn(2, 6, 5, 5)
    out = layer(x).unflatten(1, (3, 3))

    torch.testing.assert_close(out[:, :, :2], x.unflatten(1, (3, 2)))
    assert out[:, :, 2].abs().max() == 0
