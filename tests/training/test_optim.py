import math

import pytest
import torch
from torch import nn

from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.training import optim as module
from dynconv.training.config import OptimConfig
from dynconv.training.optim import (
    Muon,
    build_optimizers,
    lr_factor,
    orthogonalise,
    parameter_groups,
    set_learning_rates,
)


def small_net() -> Net:
    torch.manual_seed(0)
    net = Net(ModelConfig(widths=(8, 8), pools=(2,), experts=2), 10)
    net.input.fit(torch.rand(20, 3, 16, 16))
    return net


@pytest.mark.parametrize("shape", [(3, 8, 30), (2, 30, 8), (1, 16, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)

    values = torch.linalg.svdvals(orthogonalise(matrices, steps=5))

    assert values.min() > 0.6 and values.max() < 1.3
    # Where it is computed in bf16, to its 8 bits.
    torch.testing.assert_close(orthogonalise(100 * matrices), orthogonalise(matrices), rtol=0.02, atol=0.02)


def test_each_expert_is_orthogonalised_by_itself() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20)

    for k in range(3):
        torch.testing.assert_close(orthogonalise(matrices)[k], orthogonalise(matrices[k : k + 1])[0])


def test_muon_keeps_the_norm_of_every_expert() -> None:
    torch.manual_seed(0)
    bank = nn.Parameter(torch.randn(4, 9, 5, 3, 3))
    optimizer = Muon([bank], lr=0.0, momentum=0.6)
    bank.grad = torch.randn_like(bank)

    optimizer.step()

    torch.testing.assert_close(bank.flatten(1).norm(dim=1), torch.full((4,), 3.0))
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw"])
def test_every_learned_parameter_is_moved_by_exactly_one_optimizer(name: str) -> None:
    net = small_net()
    optimizers = build_optimizers(net, OptimConfig(name=name, lr=0.1))
    given = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    learned = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert len(given) == len(learned) and {id(parameter) for parameter in given} == learned

    before = [parameter.clone() for parameter in given]
    net(torch.rand(4, 3, 16, 16)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, given, strict=True))


def test_groups_are_the_parts_of_the_network() -> None:
    groups = parameter_groups(small_net())

    assert {name: len(parameters) for name, parameters in groups.items()} == {
        "experts": 2, "routers": 4, "biases": 2, "head": 2,
    }  # fmt: skip
    assert all(parameter.dim() == 5 for parameter in groups["experts"])


def test_a_parameter_that_no_group_knows_is_an_error_that_names_it() -> None:
    """Among the biases it would learn 300 times too fast."""
    net = small_net()
    net.backbone[0].offset = nn.Parameter(torch.ones(8))

    with pytest.raises(ValueError, match=r"no group for the parameter backbone\.0\.offset"):
        build_optimizers(net, OptimConfig())


def test_another_optimizer_is_one_function() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "OPTIMIZERS", dict(module.OPTIMIZERS))

        @module.optimizer("rmsprop")
        def build(groups: module.Groups, config: OptimConfig) -> list[torch.optim.Optimizer]:
            every = [{"name": name, "params": parameters, "lr": config.lr} for name, parameters in groups.items()]
            return [torch.optim.RMSprop(every)]

        (built,) = build_optimizers(small_net(), OptimConfig(name="rmsprop", lr=0.5))

    assert [group["peak_lr"] for group in built.param_groups] == [0.5] * 4
    with pytest.raises(ValueError, match="must be one of muon, sgd, adamw, not rmsprop"):
        OptimConfig(name="rmsprop")


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_learns(name: str, schedule: str) -> None:
    """Twenty steps on one batch."""
    net = small_net()
    lr = {"muon": 0.1, "sgd": 0.5, "adamw": 0.01}[name]
    config = OptimConfig(name=name, schedule=schedule, lr=lr, bias_lr=1.0, weight_decay=0.0)
    optimizers = build_optimizers(net, config)
    x, y = torch.rand(20, 3, 16, 16), torch.arange(20) % 10
    losses = []
    for step in range(20):
        set_learning_rates(optimizers, lr_factor(step, 20, config))
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    assert losses[-1] < 0.8 * losses[0]


def test_schedules() -> None:
    linear, cosine = OptimConfig(), OptimConfig(schedule="cosine", warmup=0.2)

    assert [lr_factor(step, 4, linear) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    factors = [lr_factor(step, 100, cosine) for step in range(100)]
    assert factors[:20] == sorted(factors[:20]) and factors[19] < 1 and factors[20] == 1
    assert factors[20:] == sorted(factors[20:], reverse=True) and factors[-1] < 0.001
    assert factors[60] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_weight_decay_is_the_fraction_per_step_at_the_peak_rate() -> None:
    net = small_net()
    optimizers = build_optimizers(net, OptimConfig(name="sgd", lr=0.1, weight_decay=0.25, momentum=0.0))
    before = net.head.linear.weight.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rates(optimizers, 0.5)
    for optimizer in optimizers:
        optimizer.step()

    torch.testing.assert_close(net.head.linear.weight.detach(), before * (1 - 0.125))
