"""An algorithm is added by one registration: by name it computes at once, `auto` knows it once it has coefficients."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from equation import mixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynconv.layer import DynamicConv2d, choice, mix_convolutions
from dynconv.layer.algorithms import ALGORITHMS, algorithm
from dynconv.layer.geometry import Geometry


@pytest.fixture
def loop() -> Iterator[str]:
    """The equation as it is written, for one group only."""

    def obstacle(geometry: Geometry) -> str:
        return "" if geometry.groups == 1 else "needs one group"

    @algorithm("loop", obstacle=obstacle)
    def by_loop(x_NCHW: Tensor, weight_KOCHW: Tensor, a_NK: Tensor, g: Geometry) -> Tensor:
        return mixture(x_NCHW, weight_KOCHW, a_NK, None, stride=g.stride, padding=g.padding, dilation=g.dilation)

    yield "loop"
    del ALGORITHMS["loop"]


def test_a_new_algorithm_needs_one_registration(loop: str) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3, algorithm=loop)
    x = torch.randn(4, 8, 12, 12)

    torch.testing.assert_close(
        layer(x), mix_convolutions(x, layer.weight, layer.routing_weights(x), layer.bias, padding=1, algorithm="kernel")
    )
    with pytest.raises(ValueError, match="algorithm 'loop' needs one group; use 'auto'"):
        DynamicConv2d(8, 16, 3, groups=2, algorithm=loop)(x)
    with pytest.raises(ValueError, match=r"'fast' is none of auto, .*, winograd, .*, loop"):
        DynamicConv2d(8, 16, 3, algorithm="fast")


def test_an_algorithm_without_coefficients_is_used_by_name_only(loop: str) -> None:
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3)

    explanation = layer.explain_algorithm((4, 8, 12, 12))

    (estimate,) = (estimate for estimate in explanation.estimates if estimate.algorithm == loop)
    assert estimate.milliseconds is None and not estimate.obstacle
    assert explanation.chosen != loop


def test_auto_takes_a_new_algorithm_that_its_coefficients_make_the_fastest(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3)
    key = ("cpu", torch.float32, True)
    fastest = [-1000.0] + [0.0] * 8
    monkeypatch.setitem(choice._MODEL, key, {**choice._MODEL[key], loop: fastest})

    assert layer.explain_algorithm((4, 8, 12, 12)).chosen == loop
    assert DynamicConv2d(8, 16, 3, groups=2).explain_algorithm((4, 8, 12, 12)).chosen != loop


def test_auto_takes_pixel_for_maps_of_a_few_pixels() -> None:
    few = Geometry(500, 64, (2, 2), 64, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, "cpu", True)

    assert choice.choose(few) == choice.choose(replace(few, training=False)) == "pixel"
    assert "-> pixel " in str(choice.explain(few))
    others: tuple[dict[str, Any], ...] = (
        {"size": (4, 4)},
        {"kernel": (1, 1), "padding": (0, 0)},
        {"batch": 99},
        {"groups": 2},
        {"experts": 1, "training": False},
        {"device": "cuda"},
        {"size": (2,), "kernel": (3,), "stride": (1,), "padding": (1,), "dilation": (1,)},
    )
    for otherwise in others:
        assert choice.choose(replace(few, **otherwise)) != "pixel", otherwise


def test_pixel_passes_over_the_padding() -> None:
    """Also where an output pixel sees nothing else."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    a = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    for convolution in ({"padding": 4}, {"padding": 4, "stride": 3}, {"padding": (3, 5), "dilation": (1, 2)}):
        expected = mixture(x, weight, a, None, **convolution)
        found = mix_convolutions(x, weight, a, **convolution, algorithm="pixel")

        torch.testing.assert_close(found, expected)
        direction = torch.randn_like(expected)
        theirs, ours = (torch.autograd.grad(out, (x, weight, a), direction) for out in (expected, found))
        torch.testing.assert_close(ours, theirs)
    with FlopCounterMode(display=False) as counted:
        mix_convolutions(x, weight, a, padding=1, algorithm="pixel")
    assert counted.get_total_flops() == 2 * 2 * (2 * 3 * 5) * (2 + 2)  # 2 images, 2 experts, 2 pixels that see 2


def test_the_fitted_model_fits_the_features() -> None:
    """choice.json has one coefficient per feature, for registered algorithms only."""
    geometry = Geometry(4, 8, (12, 12), 16, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, "cpu", True)

    for coefficients in choice._MODEL.values():
        for name, values in coefficients.items():
            assert len(values) == len(ALGORITHMS[name].features(geometry))
