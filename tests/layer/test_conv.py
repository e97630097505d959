import copy
import io

import pytest
import torch
from equation import mixture
from operators import DENSE, needs_operators
from torch import nn

from dynconv.layer import DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.conv import DynamicConv
from dynconv.layer.routing import GATES


def test_the_layer_is_the_equation() -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(6, 10, 3, stride=2, padding=1, experts=3).double()
    torch.nn.init.normal_(layer.router.linear.weight)
    x = torch.randn(4, 6, 9, 9, dtype=torch.float64)
    logits = x.mean((2, 3)) @ layer.router.linear.weight.T + layer.router.linear.bias

    torch.testing.assert_close(layer.routing_weights(x), logits.softmax(1))
    torch.testing.assert_close(layer(x), mixture(x, layer.weight, logits.softmax(1), layer.bias, stride=2, padding=1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # Conv2d's own
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        {"kernel_size": (2, 4), "padding": "same"},
        {"kernel_size": 3, "padding": "valid", "groups": 2},
        {"kernel_size": 3, "padding": 2, "padding_mode": "reflect", "stride": 2},
        {"kernel_size": (1, 3), "padding": (0, 1), "padding_mode": "circular"},
        {"kernel_size": 4, "padding": "same", "padding_mode": "replicate", "bias": False},
    ],
)
def test_geometry_is_that_of_conv2d(geometry: dict[str, object]) -> None:
    """With equal experts and weights that sum to one, the layer is the convolution."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, **geometry, dtype=torch.float64)  # type: ignore[arg-type]
    layer = DynamicConv2d(4, 6, **geometry, experts=3, dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(conv.weight.expand_as(layer.weight))
        if layer.bias is not None and conv.bias is not None:
            layer.bias.copy_(conv.bias.expand_as(layer.bias))
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)

    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("experts", [1, 4])
def test_from_conv_starts_as_the_convolution_and_leaves_it_in_training(gate: str, experts: int) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), groups=2, padding_mode="reflect")
    layer = DynamicConv2d.from_conv(conv, experts, gate=gate)
    x = torch.randn(5, 4, 9, 9)

    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    if experts > 1:
        assert layer.routing_weights(x).std(0).min() > 0
        assert not torch.allclose(layer.weight[0], layer.weight[1])


KERNELS = {
    "one weight": torch.full((1, 1, 1, 1), 0.5),
    "one weight of zero": torch.zeros(1, 1, 1, 1),
    "zero": torch.zeros(4, 3, 3, 3),
    "constant": torch.full((4, 3, 3, 3), 0.1),
    "large constant": torch.full((4, 3, 3, 3), -1e6),
    "nearly constant": 1 + 1e-7 * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_from_conv_of_a_kernel_without_spread_gives_experts_that_differ(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kernel = KERNELS[name].to(dtype)
    out_channels, in_channels, *sides = kernel.shape
    conv = torch.nn.Conv2d(in_channels, out_channels, tuple(sides), dtype=dtype)
    with torch.no_grad():
        conv.weight.copy_(kernel)
    layer = DynamicConv2d.from_conv(conv, 4)
    x = torch.randn(2, in_channels, 5, 5, dtype=dtype)
    rounding = 10 * torch.finfo(dtype).eps

    scale = kernel.abs().max().item() or 1.0
    torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=rounding * scale * kernel[0].numel())
    for k in range(1, 4):
        assert not torch.equal(layer.weight[k], layer.weight[0])


def test_from_conv_has_shapes_without_values() -> None:
    layer = DynamicConv2d.from_conv(torch.nn.Conv2d(4, 6, 3, device="meta"), 3)

    assert layer.weight.shape == (3, 6, 4, 3, 3) and layer.weight.device.type == "meta"


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # Conv2d's own, once a process
def test_collapse_undoes_from_conv_and_refuses_what_depends_on_the_image() -> None:
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(4, 6, (3, 2), padding="same", bias=False, dtype=torch.float64), torch.randn(2, 4, 8, 8)
    for experts in (1, 3):
        collapsed = DynamicConv2d.from_conv(conv, experts).collapse()
        assert type(collapsed) is torch.nn.Conv2d and collapsed.bias is None
        torch.testing.assert_close(collapsed.weight, conv.weight)
        torch.testing.assert_close(collapsed.double()(x.double()), conv(x.double()))
    one = DynamicConv2d(4, 6, 3, experts=1, router_hidden=5)
    torch.testing.assert_close(one.collapse()(x), one(x))
    for layer in (DynamicConv2d(4, 6, 3, experts=2), DynamicConv2d(4, 6, 3, experts=1, gate="sigmoid")):
        with pytest.raises(ValueError, match="routing depends on the image"):
            layer.collapse()


def test_parameters_are_made_where_and_as_asked() -> None:
    layer = DynamicConv2d(4, 8, 3, device="meta", dtype=torch.bfloat16)

    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}


def test_routing_weights_from_outside_replace_its_own() -> None:
    layer, x = DynamicConv2d(4, 4, 1, experts=2), torch.randn(3, 4, 5, 5)
    second = torch.tensor([0.0, 1.0]).expand(3, 2)

    expected = torch.nn.functional.conv2d(x, layer.weight[1], layer.bias[1])  # type: ignore[index]
    torch.testing.assert_close(layer(x, second), expected)


def test_experts_start_different_with_the_spread_of_conv2d() -> None:
    torch.manual_seed(0)
    layer, conv = DynamicConv2d(32, 64, 3, experts=4), torch.nn.Conv2d(32, 64, 3)

    for k in range(4):
        assert layer.weight[k].std().item() == pytest.approx(conv.weight.std().item(), rel=0.05)
        for other in range(k):
            assert torch.corrcoef(layer.weight[[k, other]].flatten(1))[0, 1].abs() < 0.05


def test_identity_keeps_the_experts_apart() -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(4, 8, 3, padding=1, bias=False, experts=2)
    layer.add_identity()
    x = torch.randn(2, 4, 6, 6)
    out = layer(x)

    assert torch.nn.functional.cosine_similarity(out[:, :4].flatten(), x.flatten(), dim=0) > 0.5
    assert not torch.equal(layer.weight[0], layer.weight[1])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"experts": 0}, "experts: must be at least 1"),
        ({"groups": 3}, "groups: 3 does not divide"),
        ({"gate": "relu6"}, "gate: 'relu6' is none of softmax, sigmoid, "),
        ({"temperature": 0.0}, "temperature: must be positive"),
        ({"padding": "some"}, "padding: 'some' is neither"),
        ({"padding": "same", "stride": 2}, "'same' needs stride 1"),
        ({"stride": (1, 2, 3)}, "stride: needs one number, or two"),
        ({"padding_mode": "mirror"}, "padding_mode: 'mirror' is none of"),
        ({"algorithm": "fast"}, "algorithm: 'fast' is none of auto, "),
        ({"stride": 0}, "stride: must be at least 1, not 0"),
        ({"dilation": (1, 0)}, r"dilation: must be at least 1, not \(1, 0\)"),
        ({"kernel_size": 0}, "kernel_size: must be at least 1, not 0"),
        ({"padding": -1}, "padding: must be at least 0, not -1"),
        ({"groups": 0}, "groups: must be at least 1, not 0"),
        ({"out_channels": 0}, "out_channels: must be at least 1, not 0"),
        ({"temperature": float("nan")}, "temperature: must be positive and finite, not nan"),
        ({"router_hidden": -1}, "router_hidden: must be at least 0, not -1"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DynamicConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_an_image_without_a_batch_is_taken_as_by_conv2d(padding_mode: str) -> None:
    layer = DynamicConv2d(4, 8, 3, padding=1, padding_mode=padding_mode, experts=3)  # type: ignore[arg-type]
    x, a = torch.randn(4, 9, 7), torch.tensor([0.5, 0.25, 0.25])

    torch.testing.assert_close(layer(x), layer(x[None])[0])
    torch.testing.assert_close(layer.routing_weights(x), layer.routing_weights(x[None])[0])
    torch.testing.assert_close(layer(x, a), layer(x[None], a[None])[0])
    with pytest.raises(ValueError, match=r"x: needs \[N, 3, H, W\], not \[2, 4, 9, 7\]"):
        DynamicConv2d(3, 8, 3)(torch.randn(2, 4, 9, 7))
    with pytest.raises(ValueError, match=r"x: needs \[N, C, H, W\] or \[C, H, W\], not \[9, 7\]"):
        layer(x[0])


def test_routing_has_shapes_without_values() -> None:
    layer = DynamicConv2d(4, 8, 3, experts=3, device="meta")

    assert layer.routing_weights(torch.empty(2, 4, 9, 9, device="meta")).shape == (2, 3)


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
def test_a_net_goes_to_channels_last_and_to_other_types_as_with_conv2d(algorithm: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3, algorithm=algorithm)
    x = torch.randn(4, 8, 12, 12)
    expected = layer(x)

    net = torch.nn.Sequential(layer).to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last))
    out.sum().backward()

    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert net.double()[0].weight.dtype == torch.float64 and layer.weight.shape == (3, 16, 8, 3, 3)


def test_copies_pickles_and_states_keep_the_function() -> None:
    layer, x = DynamicConv2d(3, 5, 3, experts=2, gate="sparsemax", temperature=2.0), torch.randn(2, 3, 7, 7)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    fresh = DynamicConv2d(3, 5, 3, experts=2, gate="sparsemax")
    fresh.load_state_dict(layer.state_dict())

    for other in (copy.deepcopy(layer), torch.load(stream, weights_only=False), fresh):
        torch.testing.assert_close(other(x), layer(x))


def test_under_autocast_routing_stays_float32() -> None:
    torch.manual_seed(0)
    layer, x = DynamicConv2d(8, 8, 3, padding=1), torch.randn(4, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        a, out = layer.routing_weights(x), layer(x)

    assert a.dtype == torch.float32 and out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


def test_the_choice_of_algorithm_is_explained() -> None:
    layer = DynamicConv2d(16, 32, 3, padding=1, experts=4)

    explanation = layer.explain_algorithm((64, 16, 12, 12))
    text = str(explanation)

    assert text.splitlines()[0] == (
        "[64, 16, 12, 12] -> [64, 32, 12, 12], 4 experts 3x3, float32 on cpu, forward and backward"
    )
    assert f"-> {explanation.chosen}" in text
    assert sorted(estimate.algorithm for estimate in explanation.estimates) == sorted(ALGORITHMS)
    strided = DynamicConv2d(16, 32, 3, stride=2, experts=4).eval().explain_algorithm((64, 16, 12, 12))
    assert strided.chosen != "winograd" and "needs float32 on a CPU, 3x3 kernels" in str(strided)
    assert "forward\n" in str(strided)
    with pytest.raises(ValueError, match="needs"):
        layer.explain_algorithm((64, 3, 12, 12))


def test_explanations_are_of_what_is_computed() -> None:
    """'same' padding of an even kernel and padding modes enlarge the input before the convolution."""
    layer = DynamicConv2d(8, 8, 4, padding="same", experts=2)

    assert layer.explain_algorithm((2, 8, 9, 9)).geometry.out_size == layer(torch.randn(2, 8, 9, 9)).shape[2:]


@pytest.mark.parametrize("layer", [DynamicConv1d, DynamicConv2d, DynamicConv3d])
def test_experts_of_different_kernels_are_convolutions_of_different_kernels(layer: type[DynamicConv]) -> None:
    """In the middle of the largest, so all outputs have the same place and size."""
    torch.manual_seed(0)
    sizes, dilations = (1, 3, 3, 5), (1, 1, 2, 1)
    mixed = layer(4, 6, 5, padding=2, experts=4, expert_kernel_sizes=sizes, expert_dilations=dilations)
    nn.init.normal_(mixed.router.linear.weight)
    x = torch.randn(3, 4, *(9,) * layer.dims)
    a = mixed.routing_weights(x)
    expected = torch.zeros_like(mixed(x))
    for k, (size, dilation) in enumerate(zip(sizes, dilations, strict=True)):
        own = layer.static_type(4, 6, size, padding=dilation * (size - 1) // 2, dilation=dilation)
        assert mixed.taps is not None
        kernel = mixed.weight[k][mixed.taps[k].expand_as(mixed.weight[k]) > 0]
        own.weight.data.copy_(kernel.view_as(own.weight))
        own.bias.data.copy_(mixed.bias[k])
        assert own.weight.std().item() == pytest.approx(1 / (3 * own.weight[0].numel()) ** 0.5, rel=0.35)
        expected += a[:, k].view(-1, *(1,) * (layer.dims + 1)) * own(x)

    torch.testing.assert_close(mixed(x), expected, rtol=1e-4, atol=1e-4)
    mixed(x).square().sum().backward()
    assert (mixed.weight.grad[(mixed.taps == 0).expand_as(mixed.weight)] == 0).all()
    again = copy.deepcopy(mixed)
    torch.testing.assert_close(again(x), mixed(x))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"expert_kernel_sizes": (1, 3)}, "expert_kernel_sizes: has 2 entries, needs 3, one per expert"),
        ({"expert_dilations": (1,)}, "expert_dilations: has 1 entries, needs 3"),
        ({"expert_kernel_sizes": (1, 3, 7)}, "expert 3, .* spans .* no place in the middle of kernel_size"),
        ({"expert_kernel_sizes": (1, 3, 2)}, "expert 3, .* no place in the middle"),
        ({"expert_dilations": (1, 1, 2)}, "expert 3, .* with dilation .* spans"),
        ({"expert_kernel_sizes": (0, 3, 5)}, "expert 1, "),
    ],
)
def test_experts_that_have_no_place_are_named(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DynamicConv2d(4, 6, 5, experts=3, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="experts that start as a convolution"):
        DynamicConv2d.from_conv(nn.Conv2d(4, 6, 5), 3, expert_kernel_sizes=(1, 3, 5))
