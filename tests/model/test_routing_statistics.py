import hypothesis.extra.numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynconv.layer.routing import GATES
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.model.routing_statistics import IDLE, BlockRouting, routing_statistics, summarise


def test_they_are_those_of_the_routing_weights() -> None:
    torch.manual_seed(0)
    net = Net(ModelConfig(widths=(8,), pools=(1,), experts=3), 10)
    torch.nn.init.normal_(net.backbone[0].conv.router.linear.weight)
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    net.input.fit(images)

    (block,) = routing_statistics(net, images)

    a = net.backbone[0].conv.routing_weights(net.input(images)).detach()
    torch.testing.assert_close(torch.tensor(block.mean), a.mean(0))
    assert block.std == pytest.approx(float(a.std(0, correction=0).mean()), rel=1e-4)
    assert 0 < block.entropy < 1
    assert net.training, "the network is left in its mode"


@pytest.mark.parametrize(
    ("mean", "entropy", "std", "finding"),
    [
        ([0.5, 0.5], 1.0, 0.1, ""),
        ([1.0, 0.0], 0.0, 0.0, "collapsed"),
        ([0.5, 0.5], 1.0, 0.9 * IDLE, "idle"),
        ([0.5, 0.5], 1.0, 1.1 * IDLE, ""),
        ([0.97, 0.03], 0.2, 0.1, "unused"),
        ([1.0], 1.0, 0.0, ""),
        ([1.4, -0.4], 0.8, 0.1, ""),
        ([1.0, -0.03], 0.2, 0.1, "unused"),
    ],
)
def test_routing_without_effect_is_found(mean: list[float], entropy: float, std: float, finding: str) -> None:
    assert BlockRouting(block=1, mean=mean, entropy=entropy, std=std).finding == finding


def test_one_image_and_one_expert_have_statistics_too() -> None:
    first, second = summarise([torch.tensor([[0.25, 0.75]]), torch.ones(3, 1)])

    assert first.std == 0 and first.mean == [0.25, 0.75]
    assert second.entropy == 1 and second.block == 2


@given(
    name=st.sampled_from(sorted(GATES)),
    logits=hypothesis.extra.numpy.arrays(np.float32, (5, 3), elements=st.floats(-50, 50, width=32)),
)
def test_every_gate_has_statistics_whatever_the_router_says(name: str, logits: np.ndarray) -> None:
    """Also those whose weights can be negative, or all zero."""
    (block,) = summarise([GATES[name].function(torch.from_numpy(logits))])

    assert 0 <= block.entropy <= 1 + 1e-6 and block.std >= 0
    assert block.finding in ("", "collapsed", "idle", "unused")
