import pytest
import torch
from torch import nn

from dynconv.layer import DynamicConv2d, DynamicConv3d, convert, count


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mixed = DynamicConv2d(8, 16, 3, stride=2, padding=1, experts=3, router_hidden=5, algorithm="kernel")
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixed(self.stem(x).relu()).mean((2, 3)))


def test_every_layer_is_counted_by_hand() -> None:
    net = Small()

    found = count(net, (4, 3, 12, 12))

    stem, mixed, head = found.layers
    assert (stem.name, stem.kind, stem.shape) == ("stem", "Conv2d", (4, 8, 12, 12))
    assert stem.multiply_adds == stem.computed == 4 * 8 * 144 * 3 * 9
    kernels, router = 3 * 16 * 8 * 9, 8 * 5 + 5 * 3
    assert mixed.parameters == kernels + 3 * 16 + router + 5 + 3
    assert mixed.multiply_adds == 4 * (router + kernels + 3 * 16 + 16 * 36 * 8 * 9)
    assert mixed.computed == mixed.multiply_adds
    assert head.multiply_adds == 4 * 160
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.multiply_adds == stem.multiply_adds + mixed.multiply_adds + head.multiply_adds == found.computed
    assert "mixed" in str(found) and f"{found.multiply_adds:,}" in str(found)


@pytest.mark.parametrize("algorithm", ["input", "output"])
def test_what_is_needed_does_not_depend_on_the_algorithm_and_what_is_computed_does(algorithm: str) -> None:
    kernel, other = Small(), Small()
    other.mixed.algorithm = algorithm

    assert count(other, (4, 3, 12, 12)).multiply_adds == count(kernel, (4, 3, 12, 12)).multiply_adds
    mixed = count(other, (4, 3, 12, 12)).layers[1]
    assert mixed.computed > 2.5 * count(kernel, (4, 3, 12, 12)).layers[1].computed


def test_frozen_experts_cost_as_much_and_are_not_learned() -> None:
    net = Small()
    whole = count(net, (1, 3, 12, 12))
    net.mixed.weight.requires_grad_(False)
    frozen = count(net, (1, 3, 12, 12))

    assert frozen.learned == whole.learned - net.mixed.weight.numel()
    assert (frozen.parameters, frozen.multiply_adds) == (whole.parameters, whole.multiply_adds)


def test_counting_leaves_the_net_as_it_was_and_takes_an_input_of_any_kind() -> None:
    net = nn.Sequential(DynamicConv3d(2, 4, 3, experts=2), nn.BatchNorm3d(4)).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    by_shape, by_input = count(net, (2, 2, 5, 5, 5)), count(net, torch.randn(2, 2, 5, 5, 5, dtype=torch.float64))

    assert by_shape == by_input
    assert net.training and net[1].training and not net[0]._forward_hooks and not net[0]._forward_pre_hooks
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    net = convert(nn.Sequential(shared, nn.ReLU(), shared), experts=2)

    (layer,) = count(net, (1, 4, 6, 6)).layers

    assert layer.multiply_adds == 2 * (4 * 2 + 2 * 4 * 4 * 9 + 2 * 4 + 4 * 36 * 36)
