import pytest

from dynconv.model.config import ModelConfig
from dynconv.model.describe import rows
from dynconv.report.diagram import diagram


def drawn(**model: object) -> str:
    return diagram(rows(ModelConfig(widths=(8,), pools=(2,), **model))).svg  # type: ignore[arg-type]


@pytest.mark.parametrize(("experts", "shown"), [(1, "₁"), (3, "₁₂₃"), (12, ["₁", "₂", "₁₂"])])
def test_each_expert_has_its_own_box_and_its_own_weight(experts: int, shown: list[str]) -> None:
    svg = drawn(experts=experts)

    for k in shown:
        assert svg.count(f"Conv{k}: 3x3<") == 1 and svg.count(f">a{k}<") == 1
    assert svg.count("Conv") == len(shown) and svg.count(">×<") == len(shown)
    assert ("...<" in svg) == (experts > 3)


def test_it_names_the_other_components_and_the_shapes() -> None:
    svg = drawn(router_hidden=16, head_hidden=20, dropout=0.1)

    for words in ("linear 16, ReLU,", "max pool 2,", "dropout 0.1", "24×31×31", "8×15×15", "linear, ReLU", "10 logits"):
        assert words in svg
