import pytest
from rich.console import Console

from dynconv.errors import DynconvError
from dynconv.model.config import ModelConfig
from dynconv.model.describe import describe, headline, rows
from dynconv.model.net import Net
from dynconv.training.presets import PRESETS

TINY = ModelConfig(widths=(8, 16), pools=(2, 1), experts=3)


def printed(model: ModelConfig, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(describe("tiny", model))
    return capture.get()


def test_every_block_shows_router_experts_and_the_rest() -> None:
    text = printed(TINY)

    assert text.count("a = g(f W)") == 2 + 1  # two blocks and the legend
    assert text.count("3 x conv 3x3") == 2
    assert "8x31x31" in text and "16x15x15" in text


def test_total_is_the_number_of_learned_parameters() -> None:
    net = Net(TINY, classes=10)
    learned = sum(p.numel() for p in net.parameters() if p.requires_grad)

    assert f"{learned:,}" in printed(TINY).split("all")[1]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_a_narrow_terminal(name: str) -> None:
    text = printed(PRESETS[name]().model, width=80)

    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_headline_names_blocks_experts_and_cost() -> None:
    assert headline(TINY).startswith("2 blocks of 3 experts, ")
    assert headline(ModelConfig(widths=(8,), pools=(2,), experts=1)).startswith("1 block of 1 expert, ")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ModelConfig(widths=(8, 16), pools=(1,), residual=(True, False)), "block 1 changes the shape"),
        (ModelConfig(widths=(8, 8), pools=(8,)), "block 2 has no pixels left"),
    ],
)
def test_a_network_that_cannot_be_is_one_line(config: ModelConfig, reason: str) -> None:
    with pytest.raises(DynconvError, match=reason) as caught:
        rows(config)
    assert "\n" not in str(caught.value)


def test_training_image_sizes_are_checked_too() -> None:
    with pytest.raises(DynconvError, match="block 2 has no pixels left"):
        rows(ModelConfig(widths=(8, 8), pools=(4,)), image_size=32, also=(12, 32))
