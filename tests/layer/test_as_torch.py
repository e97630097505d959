"""The three layers against torch.nn's convolutions, on the samples by which torch tests its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from operators import OPERATORS, needs_operators
from torch import Tensor, nn
from torch.testing._internal import common_methods_invocations as operators
from torch.testing._internal import common_modules as modules

from dynconv.layer import DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.conv import DynamicConv
from dynconv.layer.geometry import Geometry, sizes
from dynconv.layer.mixing import mix_convolutions

LAYERS: tuple[type[DynamicConv], ...] = (DynamicConv1d, DynamicConv2d, DynamicConv3d)
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1}
BY_TORCH = [name for name in ALGORITHMS if name not in OPERATORS]  # float64
CASES = [(layer, name) for layer in LAYERS for name in ("auto", *BY_TORCH) if (layer.dims, name) != (3, "unfold")]


@pytest.mark.parametrize(("layer", "algorithm"), CASES)
def test_functional_samples(layer: type[DynamicConv], algorithm: str) -> None:
    """With equal experts the mixture is the convolution: value, gradient of the input, of the kernel, of the bias."""
    functional = getattr(nn.functional, f"conv{layer.dims}d")
    compared = 0
    for sample in samples(layer):
        x, weight, bias = sample.input, *sample.args
        kwargs = dict(sample.kwargs)
        if x.dim() == layer.dims + 1:  # of `DynamicConv`, not of the function
            continue
        if isinstance(kwargs.get("padding"), str):
            continue
        given = [tensor for tensor in (x, weight, bias) if tensor is not None]
        expected = functional(x, weight, bias, **kwargs)
        experts = torch.stack([weight, weight, weight])
        biases = None if bias is None else torch.stack([bias, bias, bias])
        a = torch.tensor([0.5, 0.75, -0.25], dtype=x.dtype).expand(len(x), 3)
        if algorithm != "auto" and ALGORITHMS[algorithm].obstacle(_geometry(layer.dims, x, experts, **kwargs)):
            continue
        found = mix_convolutions(x, experts, a, biases, **kwargs, algorithm=algorithm)

        torch.testing.assert_close(found, expected)
        direction = torch.randn_like(expected)
        theirs, ours = (torch.autograd.grad(out, given, direction) for out in (expected, found))
        torch.testing.assert_close(ours, theirs)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("algorithm", OPERATORS)
def test_functional_samples_that_the_operators_compute(algorithm: str) -> None:
    needs_operators(algorithm)
    grouped = 0
    for sample in samples(DynamicConv2d, torch.float32):
        x, weight, bias = sample.input, *sample.args
        if x.dim() == 3 or isinstance(sample.kwargs.get("padding"), str):
            continue
        given = [x, weight] if bias is None else [x, weight, bias]
        experts, biases = (None if tensor is None else torch.stack([tensor, tensor]) for tensor in (weight, bias))
        a = torch.tensor([0.75, 0.25]).expand(len(x), 2)
        if not OPERATORS[algorithm].applies(_geometry(2, x, experts, **sample.kwargs)):
            continue
        found = mix_convolutions(x, experts, a, biases, **sample.kwargs, algorithm=algorithm)
        expected = nn.functional.conv2d(x, weight, bias, **sample.kwargs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        direction = torch.randn_like(expected)
        theirs, ours = (torch.autograd.grad(out, given, direction) for out in (expected, found))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        grouped += sample.kwargs.get("groups", 1) > 1
    assert grouped or algorithm == "winograd"


def _geometry(dims: int, x: Tensor, experts: Tensor, **convolution: Any) -> Geometry:
    sides = (sizes(convolution.get(name, default), dims, name) for name, default in DEFAULTS.items())
    return Geometry.of(x, experts, *sides, groups=convolution.get("groups", 1))


def samples(layer: type[DynamicConv], dtype: torch.dtype = torch.float64) -> Iterator[Any]:
    entry = next(info for info in operators.op_db if info.name == f"nn.functional.conv{layer.dims}d")
    torch.manual_seed(0)
    yield from entry.sample_inputs("cpu", dtype, requires_grad=True)


@pytest.mark.parametrize(("layer", "algorithm"), CASES)
def test_module_samples(layer: type[DynamicConv], algorithm: str) -> None:
    info = next(info for info in modules.module_db if info.module_cls is layer.static_type)
    torch.manual_seed(0)
    cases = info.module_inputs_func(info, "cpu", torch.float64, requires_grad=True, training=True)
    assert cases
    for case in cases:
        made, given = case.constructor_input, case.forward_input
        conv = layer.static_type(*made.args, **made.kwargs, dtype=torch.float64)
        ours = layer.from_conv(conv, experts=3, algorithm=algorithm)
        (x,) = given.args
        expected, found = conv(x), ours(x)
        torch.testing.assert_close(found, expected)
        direction = torch.randn_like(expected)
        kernel, bias = conv.weight, conv.bias
        theirs = torch.autograd.grad(expected, (x, kernel, bias), direction)
        mine = torch.autograd.grad(found, (x, ours.weight, ours.bias), direction)
        torch.testing.assert_close(mine[0], theirs[0])
        for gradient, whole in zip(mine[1:], theirs[1:], strict=True):  # each expert has its third
            for expert in gradient:
                torch.testing.assert_close(expert, whole / 3)


@pytest.mark.parametrize("layer", LAYERS)
def test_constructor_arguments_are_attributes_as_torch_has_them(layer: type[DynamicConv]) -> None:
    options: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "padding_mode": "circular"}
    conv = layer.static_type(4, 6, 3, **options)
    ours = layer(4, 6, 3, **options, experts=3, router_hidden=5, gate="sigmoid", temperature=2.0, algorithm="input")

    for name in ("in_channels", "out_channels", "kernel_size", *options):
        assert getattr(ours, name) == getattr(conv, name), name
    assert (ours.experts, ours.router_hidden, ours.gate, ours.algorithm) == (3, 5, "sigmoid", "input")
    assert ours.temperature.item() == 2.0
    assert layer(4, 6, 3, padding="same").padding == "same"


@pytest.mark.parametrize("layer", LAYERS)
def test_repr_shows_what_is_not_the_default_and_makes_the_layer_again(layer: type[DynamicConv]) -> None:
    name = layer.__name__
    shown = [
        layer(4, 6, 3),
        layer(4, 6, 3, 2, 1, experts=2, bias=False, gate="sparsemax", temperature=30.0),
        layer(4, 6, tuple(range(1, 1 + layer.dims)), padding="same", groups=2, router_hidden=7, algorithm="output"),
    ]
    assert repr(shown[0]).startswith(f"{name}(\n  4, 6, kernel_size=3\n")
    for one in shown:
        again = eval(f"{name}({one.extra_repr()})")
        assert again.extra_repr() == one.extra_repr()
        assert [p.shape for p in again.parameters()] == [p.shape for p in one.parameters()]


def start_of(layer: DynamicConv) -> dict[str, Tensor]:
    torch.manual_seed(7)
    layer.reset_parameters()
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_reset_parameters_sets_everything(layer: type[DynamicConv]) -> None:
    """After `skip_init` and `to_empty` nothing is left of what the memory held, buffers included."""
    arguments: dict[str, Any] = {"experts": 3, "router_hidden": 5, "gate": "relu", "temperature": 4.0}
    expected = start_of(layer(4, 6, 3, **arguments))
    skipped = nn.utils.skip_init(layer, 4, 6, 3, **arguments)
    emptied = layer(4, 6, 3, **arguments, device="meta").to_empty(device="cpu")
    for one in (skipped, emptied):
        for tensor in one.state_dict().values():
            tensor.fill_(1e9)
        found = start_of(one)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_everything_is_made_in_the_type_asked_for(layer: type[DynamicConv], dtype: torch.dtype) -> None:
    made = layer(4, 6, 3, router_hidden=5, dtype=dtype)

    assert {tensor.dtype for tensor in made.state_dict().values()} == {dtype}
    x = torch.randn(2, 4, *(6,) * layer.dims, dtype=dtype)
    assert made(x).dtype == dtype and made.routing_weights(x).dtype == dtype


@pytest.mark.parametrize("layer", LAYERS)
def test_an_empty_batch_and_maps_below_the_kernel_are_as_in_torch(layer: type[DynamicConv]) -> None:
    conv, ours = layer.static_type(4, 6, 3), layer(4, 6, 3)
    empty = torch.empty(0, 4, *(5,) * layer.dims)

    assert ours(empty).shape == conv(empty).shape
    small = torch.randn(2, 4, *(2,) * layer.dims)
    for one in (conv, ours):
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            one(small)
