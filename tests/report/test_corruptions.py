import pytest
import torch
from torch import Tensor

from dynconv.report import corruptions
from dynconv.report.corruptions import CORRUPTIONS


@pytest.fixture
def images() -> Tensor:
    smooth = torch.linspace(60, 180, 32).expand(4, 3, 32, 32)
    noise = torch.randint(-20, 20, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return (smooth + noise).to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_is_further_from_the_image_and_always_the_same(name: str, images: Tensor) -> None:
    corrupt, strengths, _ = CORRUPTIONS[name]

    found = [corrupt(images, strength) for strength in strengths]

    assert all(each.dtype == torch.uint8 and each.shape == images.shape for each in found)
    distances = [float((each.float() - images).square().mean()) for each in found]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert torch.equal(found[1], corrupt(images, strengths[1]))


def test_noise_has_its_standard_deviation(images: Tensor) -> None:
    difference = corruptions.noise(torch.full((8, 3, 32, 32), 128, dtype=torch.uint8), 10).float() - 128

    assert float(difference.std()) == pytest.approx(10, rel=0.03) and abs(float(difference.mean())) < 0.2


def test_blur_leaves_a_plain_image_alone_and_contrast_its_mean(images: Tensor) -> None:
    plain = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)

    assert torch.equal(corruptions.blur(plain, 1.5), plain)
    assert torch.equal(corruptions.contrast(plain, 0.2), plain)
    low = corruptions.contrast(images, 0.5).float()
    torch.testing.assert_close(low.mean((1, 2, 3)), images.float().mean((1, 2, 3)), atol=0.5, rtol=0)
