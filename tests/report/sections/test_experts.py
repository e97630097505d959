import pytest
import torch
from torch.nn import functional as F

from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.report.sections import experts


@pytest.mark.parametrize(
    ("whiten", "grey", "groups"), [(True, False, 1), (True, False, 2), (True, True, 4), (False, False, 3)]
)
def test_the_kernels_of_the_first_block_are_shown_whatever_its_groups(whiten: bool, grey: bool, groups: int) -> None:
    model = ModelConfig(widths=(12,), pools=(2,), experts=2, whiten=whiten, grey=grey, groups=(groups,))
    net = Net(model, 3)
    net.input.fit(torch.rand(20, 3, 8, 8))

    assert experts.first_kernels(net).svg.count("<image") == 2


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_kernels_with_all_channels_compute_what_those_of_groups_do(groups: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(1, 6, 6 // groups, 3, 3), torch.randn(2, 6, 5, 5)

    torch.testing.assert_close(F.conv2d(x, experts._dense(weight, groups)[0]), F.conv2d(x, weight[0], groups=groups))
