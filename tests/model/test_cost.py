import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynconv.model.config import ModelConfig
from dynconv.model.cost import multiply_adds, total_multiply_adds
from dynconv.model.net import Net

PLAIN = ModelConfig(
    whiten=False, widths=(8, 16), pools=(2, 1), strides=(1, 2), experts=2, identity_init=False, norm="none"
)


def test_counts_by_hand() -> None:
    rows = multiply_adds(Net(PLAIN, classes=10), image_size=8)

    assert [(row.part, row.block) for row in rows] == [
        ("input", 0),
        ("router", 1),
        ("experts", 1),
        ("other", 1),
        ("router", 2),
        ("experts", 2),
        ("other", 2),
        ("head", 0),
    ]
    assert [row.shape for row in rows] == [
        (3, 8, 8),
        (2,),
        (8, 8, 8),
        (8, 4, 4),
        (2,),
        (16, 2, 2),
        (16, 2, 2),
        (10,),
    ]
    # Block 1: a kernel of 8*3*9 = 216, on 8*8 pixels; 2 experts with 8 biases each are mixed.
    assert rows[1].multiply_adds == 3 * 2 and rows[1].parameters == 3 * 2 + 2
    assert rows[2].parameters == 2 * (216 + 8)
    assert rows[2].multiply_adds == 216 * 64 + 2 * (216 + 8)
    assert rows[2].separate_multiply_adds == 2 * 216 * 64 + 2 * 8 * 64
    # Block 2: a kernel of 16*8*9 = 1152, on 2*2 pixels.
    assert rows[5].multiply_adds == 1152 * 4 + 2 * (1152 + 16)
    assert rows[7].multiply_adds == 160 and rows[7].parameters == 170
    assert total_multiply_adds(Net(PLAIN, 10), 8) == 6 + 14272 + 16 + 6944 + 160


def test_parameters_of_blocks_that_differ_are_those_that_learn() -> None:
    config = ModelConfig(
        widths=(8, 8, 16), pools=(2, 1, 1), residual=(True,), residual_scale=True, experts=(1, 2, 4), groups=(1, 2, 4),
        squeeze_excite=(3, 0, 5), gate=("none", "relu", "l1"), router_hidden=(4, 0, 0),
    )  # fmt: skip
    net = Net(config, classes=4)

    rows = multiply_adds(net, image_size=12)

    assert sum(row.parameters for row in rows) == sum(p.numel() for p in net.parameters() if p.requires_grad)
    others = {row.block: row for row in rows if row.part == "other"}
    assert "squeeze-and-excitation 3" in others[1].layer and others[1].multiply_adds == 2 * 8 * 3
    assert others[2].layer.endswith("scaled, + input") and others[2].multiply_adds == 0
    assert next(row for row in rows if row.part == "experts" and row.block == 3).layer == "4 x conv 3x3, 4 groups"


def test_parameters_are_those_that_learn() -> None:
    config = ModelConfig(widths=(8, 16), pools=(2,), router_hidden=5, head_hidden=7, experts=3)
    net = Net(config, classes=4)

    rows = multiply_adds(net, image_size=12)

    assert sum(row.parameters for row in rows) == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert rows[0].multiply_adds == 24 * 12 * 11 * 11 and rows[0].parameters == 0
    assert rows[3].parameters == 8  # batch norm's biases; its scale is fixed
    assert [row.multiply_adds for row in rows if row.part == "head"] == [16 * 7, 7 * 4]


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("whiten", [False, True])
def test_agrees_with_the_counter_of_torch_where_nothing_is_mixed(whiten: bool, grey: bool) -> None:
    """With K = 1, torch counts the same, less scaling the one kernel, which is no convolution to it."""
    shape = {"widths": (8, 16, 16), "pools": (2, 1, 1), "strides": (1, 2, 1), "experts": 1}
    config = ModelConfig(grey=grey, whiten=whiten, **shape)
    net = Net(config, classes=10).eval()
    net.input.fit(torch.rand(2, 3, 20, 20))
    for block in net.backbone:
        block.conv.algorithm = "input"
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, 20, 20))

    scaled = sum(block.conv.weight.numel() for block in net.backbone)

    assert 2 * (total_multiply_adds(net, 20) - scaled) == counter.get_total_flops()


def test_too_small_an_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"block 2 has no pixels left"):
        multiply_adds(Net(ModelConfig(widths=(8, 8), pools=(4,)), 10), image_size=12)
