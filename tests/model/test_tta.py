import pytest
import torch
from torch import Tensor, nn

from dynconv.model.tta import EVAL_BATCH, TTA_MARGIN, batched_logits, mean_over_views, tta_logits, unsure


class PixelSum(nn.Module):
    """Logits that tell where in the image something lies, and a record of what came in."""

    def __init__(self, weight_HW: Tensor) -> None:
        super().__init__()
        self.weight_HW = weight_HW
        self.batches: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x)
        self.modes.append(self.training)
        return (x.sum(1) * self.weight_HW).sum((1, 2))[:, None]


def test_the_mean_over_six_views_is_weighted() -> None:
    net = PixelSum(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))  # sees the centre pixel only
    image = torch.arange(9.0).view(1, 1, 3, 3)  # centre 4, corners 0 2 6 8

    logits = mean_over_views(net, image)

    # Moved by one pixel, one corner or the opposite one comes to the centre; the mirror keeps the centre.
    assert logits.item() == 0.5 * 4 + 0.25 * 0 + 0.25 * 8
    assert len(net.batches) == 6


def test_views_are_mirrored_and_reflected_at_the_border() -> None:
    net = PixelSum(torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]))  # sees the upper left pixel only
    image = torch.arange(9.0).view(1, 1, 3, 3)

    # As it is 0, mirrored 2. Moved down, reflection makes the top row 4 3 4; moved up it is 4 5 4.
    assert mean_over_views(net, image).item() == 0.5 * (0 + 2) / 2 + 0.25 * 4 + 0.25 * 4


def test_an_image_is_unsure_where_two_classes_are_nearly_as_likely() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.45, 0.45], [0.2, 0.7, 0.1], [0.1, 0.24, 0.66]])

    assert unsure(probabilities.log(), margin=0.45).tolist() == [False, True, False, True]
    assert unsure(probabilities.log(), margin=0.6).tolist() == [False, True, True, True]
    assert unsure(torch.tensor([[0.5 + TTA_MARGIN / 2, 0.5 - TTA_MARGIN / 2]]).log() * 1.01).tolist() == [False]


def test_only_unsure_images_are_augmented() -> None:
    logits = torch.tensor([[9.0, 0], [0, 0.1], [0, 9], [0.1, 0]])
    images = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    seen: list[int] = []

    def over_views(some: Tensor) -> Tensor:
        seen.extend(some[:, 0, 0, 0].tolist())
        return torch.tensor([[5.0, 6], [7, 8]])

    assert tta_logits(logits, images, over_views).tolist() == [[9, 0], [5, 6], [0, 9], [7, 8]]
    assert seen == [1, 3]
    assert logits[1].tolist() == [0, pytest.approx(0.1)], "the plain logits are still there"
    assert tta_logits(logits[[0, 2]], images[[0, 2]], lambda _: pytest.fail("none is unsure")) is not None


def test_logits_come_in_order_and_in_batches_of_the_fixed_size() -> None:
    net = PixelSum(torch.ones(2, 2))
    images = torch.randint(0, 256, (EVAL_BATCH + 3, 3, 2, 2), dtype=torch.uint8)

    logits = batched_logits(net, images)

    torch.testing.assert_close(logits, images.sum((1, 2, 3))[:, None].float())
    assert [len(batch) for batch in net.batches] == [EVAL_BATCH, 3]


def test_evaluation_mode_inside_and_the_old_mode_after() -> None:
    net = PixelSum(torch.ones(2, 2)).train()

    logits = batched_logits(net, torch.zeros(2, 3, 2, 2, dtype=torch.uint8), views=True)

    assert not any(net.modes) and net.training
    assert not logits.requires_grad
