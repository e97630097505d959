"""The router, and the gates: what each promises, and what the layer does with the promises."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dynconv.layer import DynamicConv2d, Gate, Router, fold_batchnorm
from dynconv.layer.routing import GATES, gate, sparsemax


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("experts", [1, 2, 5])
def test_gates_keep_their_promises(name: str, experts: int) -> None:
    torch.manual_seed(0)
    entry = GATES[name]
    a = entry.function(3 * torch.randn(500, experts, dtype=torch.float64))

    start = entry.function(torch.full((1, experts), entry.start(experts)))
    expected = {"plain_sigmoid": 1 / 2, "tanh": min(1 / experts, 0.9)}.get(name, 1 / experts)
    torch.testing.assert_close(start, torch.full((1, experts), expected))
    if entry.sums_to_one:
        torch.testing.assert_close(a.sum(1), torch.ones(500, dtype=torch.float64))
    if not entry.signed:
        assert (a >= 0).all()
    if experts > 1:
        assert a.std(0).min() > 0


@pytest.fixture
def toy_gate() -> Iterator[str]:
    """a = 1/K + tanh(z) / K: it promises neither a sum of one nor a sign."""

    @gate("toy", sums_to_one=False, signed=True)
    def toy(logits_NK: Tensor) -> Tensor:
        return (1 + 2 * logits_NK.tanh()) / logits_NK.shape[-1]

    yield "toy"
    del GATES["toy"]


def test_a_new_gate_needs_one_registration(toy_gate: str) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(4, 6, 3, experts=3, gate=toy_gate)
    nn.init.normal_(layer.router.linear.weight)
    x = torch.randn(5, 4, 7, 7)
    logits = x.mean((2, 3)) @ layer.router.linear.weight.T

    torch.testing.assert_close(layer.routing_weights(x), (1 + 2 * logits.tanh()) / 3)
    assert layer(x).shape == (5, 6, 5, 5)
    with pytest.raises(ValueError, match=r"gate: 'relu6' is none of softmax, .*toy"):
        Router(4, 3, gate="relu6")


def test_any_function_is_a_gate_and_a_gate_can_promise() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 7, 7)

    def squared(logits_NK: Tensor) -> Tensor:
        return (0.5 + logits_NK).square()

    for given in (squared, Gate(squared, sums_to_one=False, signed=False, start=lambda experts: 1.0)):
        layer = DynamicConv2d(4, 6, 3, experts=3, gate=given)
        logits = x.mean((2, 3)) @ layer.router.linear.weight.T + layer.router.linear.bias
        torch.testing.assert_close(layer.routing_weights(x), squared(logits))
        assert layer.gate is given and not layer.router.sums_to_one
        assert layer.router.linear.bias.tolist() == [0.0 if given is squared else 1.0] * 3


def test_what_needs_a_sum_of_one_refuses_a_gate_that_does_not_promise_it(toy_gate: str) -> None:
    layer = DynamicConv2d(4, 6, 3, experts=1, gate=toy_gate)

    with pytest.raises(ValueError, match="collapse: the routing depends on the image"):
        layer.collapse()
    with pytest.raises(ValueError, match=r"routing weights sum to one \(gates: softmax, sparsemax\)"):
        fold_batchnorm(nn.Sequential(layer, nn.BatchNorm2d(6)))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("hidden", [0, 5])
def test_routers_start_near_uniform_but_not_equal_and_learn(gate: str, hidden: int) -> None:
    torch.manual_seed(0)
    router = Router(8, 4, hidden, gate)
    x = torch.randn(50, 8, 3, 3)

    a = router(x)

    assert a.shape == (50, 4)
    assert (a - (0.5 if gate == "plain_sigmoid" else 0.25)).abs().max() < 0.2 and a.std(0).min() > 0
    a.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router.parameters())


def test_routers_are_their_formula() -> None:
    """g of a linear map or of an MLP of the spatial mean, with g = 2/K sigmoid for `sigmoid`."""
    torch.manual_seed(0)
    x = torch.randn(6, 8, 3, 5, dtype=torch.float64)
    f = x.mean((2, 3))
    linear = Router(8, 4, 0, "sigmoid", temperature=0.5).double()
    mlp = Router(8, 4, 5, "sigmoid").double()
    assert mlp.hidden is not None
    hidden = (f @ mlp.hidden.weight.T + mlp.hidden.bias).clamp_min(0)
    logits = hidden @ mlp.linear.weight.T + mlp.linear.bias

    exact = {"rtol": 1e-12, "atol": 1e-12}
    expected = 2 / 4 / (1 + (-2 * (f @ linear.linear.weight.T + linear.linear.bias)).exp())
    torch.testing.assert_close(linear(x), expected, **exact)
    torch.testing.assert_close(mlp(x), 2 / 4 / (1 + (-logits).exp()), **exact)


@pytest.mark.parametrize("gate", GATES)
def test_float64_is_routed_in_float64(gate: str) -> None:
    """Finite differences of the whole layer agree with its gradients only if nothing on the way is float32."""
    torch.manual_seed(0)
    layer = DynamicConv2d(3, 4, 3, padding=1, experts=3, gate=gate).double()
    nn.init.normal_(layer.router.linear.weight, std=0.3)

    assert torch.autograd.gradcheck(layer, (torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True),))


def test_temperature_sharpens_and_is_saved() -> None:
    torch.manual_seed(0)
    router, sharp = Router(8, 4), Router(8, 4, temperature=0.1)
    state = router.state_dict()
    assert "temperature" in state
    sharp.load_state_dict({**state, "temperature": torch.tensor(0.1)})
    x = torch.randn(20, 8, 2, 2)

    assert sharp(x).max(1).values.min() > router(x).max(1).values.min()
    torch.testing.assert_close(sharp(x), (router(x).log() / 0.1).softmax(1))


def test_sparsemax_is_the_projection_onto_the_simplex() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [0.6, 0.4, -3.0]])

    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0]])
    torch.testing.assert_close(sparsemax(z), expected)
    assert torch.autograd.gradcheck(sparsemax, torch.randn(5, 4, dtype=torch.float64, requires_grad=True))
