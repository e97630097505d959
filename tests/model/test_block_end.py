"""The end of a block is what torch's three modules compute, whoever computes it."""

import copy
from collections.abc import Callable

import pytest
import torch
from operators import needs_operators
from torch import Tensor, nn

from dynconv.layer.ops import norm_gelu
from dynconv.model import block_end
from dynconv.model.block_end import pool_norm_act

End = tuple[nn.Module, nn.Module, nn.Module]


def end(**changes: nn.Module) -> End:
    """Pooling, normalisation with a frozen scale, GELU."""
    norm = nn.BatchNorm2d(6)
    norm.weight.requires_grad_(False)
    nn.init.normal_(norm.bias)
    parts = {"pool": nn.MaxPool2d(2), "norm": norm, "act": nn.GELU()} | changes
    return parts["pool"], parts["norm"], parts["act"]


def image() -> Tensor:
    return torch.randn(5, 6, 9, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides of pooling with which the operator was called."""
    needs_operators()
    sides: list[int] = []

    def noting(*arguments: object) -> object:
        sides.append(arguments[-1])  # type: ignore[arg-type]
        return norm_gelu.norm_gelu(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(block_end, "norm_gelu", noting)
    return sides


@pytest.mark.parametrize("pool", [nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(3)])
def test_it_is_what_torch_computes_and_leaves_the_same_statistics(pool: nn.Module, called: list[int]) -> None:
    parts = end(pool=pool)
    theirs = copy.deepcopy(parts)
    x, y = image().requires_grad_(), image().requires_grad_()

    found = pool_norm_act(x, *parts)
    expected = theirs[2](theirs[1](theirs[0](y)))
    found.square().sum().backward()
    expected.square().sum().backward()

    assert called == [getattr(pool, "kernel_size", 1)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    for name, value in theirs[1].state_dict().items():
        torch.testing.assert_close(parts[1].state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [nn.Identity(), nn.MaxPool2d(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_training_it_is_what_torch_computes(
    pool: nn.Module, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_operators()
    called = []
    monkeypatch.setattr(block_end, "norm_gelu_by", lambda *words: called.append(1) or norm_gelu.norm_gelu_by(*words))
    parts = end(pool=pool)
    parts[1](image())  # so that there are statistics
    parts[1].eval()
    with torch.no_grad():
        found, expected = pool_norm_act(image().to(dtype), *parts), parts[2](parts[1](parts[0](image())))

    assert called and found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2**-6 if dtype == torch.bfloat16 else 1e-6, rtol=2**-7)
    pool_norm_act(image().to(dtype), *parts)
    assert len(called) == 1, "somebody may want gradients"


def _evaluated(parts: End) -> None:
    parts[1].eval()


def _learning_its_scale(parts: End) -> None:
    parts[1].weight.requires_grad_()  # type: ignore[union-attr, operator]


def _watched(parts: End) -> None:
    parts[2].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("parts", "change"),
    [
        (end(), _evaluated),
        (end(), _learning_its_scale),
        (end(), _watched),
        (end(act=nn.ReLU()), None),
        (end(act=nn.GELU("tanh")), None),
        (end(norm=nn.Identity()), None),
        (end(norm=nn.BatchNorm2d(6, track_running_stats=False)), None),
        (end(pool=nn.MaxPool2d(3, 2)), None),
        (end(pool=nn.AvgPool2d(2)), None),
    ],
)
def test_anything_else_is_left_to_torch(parts: End, change: Callable[[End], None] | None, called: list[int]) -> None:
    if change:
        change(parts)
    theirs = copy.deepcopy(parts)

    found = pool_norm_act(image(), *parts)

    assert not called
    torch.testing.assert_close(found, theirs[2](theirs[1](theirs[0](image()))))


def test_a_single_number_is_torchs_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        pool_norm_act(torch.randn(1, 6, 2, 2), *end())


@pytest.mark.parametrize("features", [1, 5])
def test_a_normalisation_of_other_channels_is_torchs_error(features: int) -> None:
    norm = nn.BatchNorm2d(features).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="running_mean should contain 6 elements"):
        pool_norm_act(image(), nn.Identity(), norm, nn.GELU())
