"""Each operation against Pillow's, or against its definition, on images of all kinds at once."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from dynconv.data import colour, shapes


def pictures(height: int = 24, width: int = 20) -> Tensor:
    """Drawn, noisy, faint, of one colour, black and white, with a channel of one value, and with few values."""
    generator = torch.Generator().manual_seed(0)
    drawn = shapes.generate(0, 10, 10).train.images[:4, :, :height, :width]
    noise = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=generator)
    faint = torch.randint(90, 120, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    plain = torch.tensor([17, 200, 90], dtype=torch.uint8)[:, None, None].expand(1, 3, height, width)
    two = torch.randint(0, 2, (1, 3, height, width), dtype=torch.uint8, generator=generator) * 255
    half = noise[:1].clone()
    half[:, 1] = 66
    few = noise[:1] // 64
    return torch.cat((drawn, noise, faint, plain, two, half, few))


def by_pillow(x_NCHW: Tensor, function: Callable[[Image.Image, float], Image.Image], values: Tensor) -> Tensor:
    found = []
    for image, value in zip(x_NCHW, values.tolist(), strict=True):
        grey = len(image) == 1
        picture = Image.fromarray(image[0].numpy() if grey else image.permute(1, 2, 0).numpy())
        array = torch.from_numpy(np.array(function(picture, value)))
        found.append(array[None] if grey else array.permute(2, 0, 1))
    return torch.stack(found)


ENHANCERS = [
    (colour.brightness, ImageEnhance.Brightness),
    (colour.contrast, ImageEnhance.Contrast),
    (colour.saturation, ImageEnhance.Color),
    (colour.sharpness, ImageEnhance.Sharpness),
]


@pytest.mark.parametrize(("ours", "theirs"), ENHANCERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0, 2.5, width=32))
def test_enhancements_are_those_of_pillow(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: type[ImageEnhance.Color], channels: int, factor: float
) -> None:
    x = pictures()[:, :channels]
    factors = torch.full((len(x),), factor) * torch.linspace(0.5, 1, len(x))  # each image has its own

    found = ours(x, factors)

    expected = by_pillow(x, lambda picture, value: theirs(picture).enhance(value), factors)
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found == expected).float().mean() > 0.999  # both cut off decimals; a product on a whole number may differ


def test_an_enhancement_of_strength_zero_changes_nothing() -> None:
    x = pictures()

    for enhance, _ in ENHANCERS:
        assert torch.equal(enhance(x, torch.ones(len(x))), x)
    assert torch.equal(colour.hue(x, torch.zeros(len(x))), x)
    assert torch.equal(colour.solarize(x, torch.full((len(x),), 256.0)), x)
    assert torch.equal(colour.posterize(x, torch.full((len(x),), 8.0)), x)


def test_luminance_is_that_of_pillow_for_every_colour() -> None:
    x = torch.randint(0, 256, (1, 3, 500, 500), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    grey = Image.fromarray(x[0].permute(1, 2, 0).numpy()).convert("L")

    assert torch.equal(colour.luminance(x)[0, 0], torch.from_numpy(np.array(grey)))


@settings(max_examples=25, deadline=None)
@given(threshold=st.integers(0, 256))
def test_solarize_is_that_of_pillow(threshold: int) -> None:
    x = pictures()
    thresholds = (threshold - torch.arange(len(x))).clamp(min=0).float()

    assert torch.equal(colour.solarize(x, thresholds), by_pillow(x, ImageOps.solarize, thresholds))


def test_posterize_is_that_of_pillow() -> None:
    x = pictures()
    bits = torch.arange(len(x)).float() % 8 + 1  # Pillow's least is 1

    assert torch.equal(colour.posterize(x, bits), by_pillow(x, lambda p, b: ImageOps.posterize(p, int(b)), bits))


@pytest.mark.parametrize("size", [(24, 20), (32, 32), (5, 3), (64, 48)])
def test_equalize_is_that_of_pillow(size: tuple[int, int]) -> None:
    x = pictures(32, 32)[:, :, : size[0], : size[1]]
    x = x.repeat(1, 1, -(-size[0] // 32), -(-size[1] // 32))[:, :, : size[0], : size[1]]

    found = colour.equalize(x)

    assert torch.equal(found, by_pillow(x, lambda picture, _: ImageOps.equalize(picture), torch.zeros(len(x))))
    assert size != (64, 48) or not torch.equal(found, x)


def test_autocontrast_is_that_of_pillow() -> None:
    x = pictures()

    found = colour.autocontrast(x)

    expected = by_pillow(x, lambda picture, _: ImageOps.autocontrast(picture), torch.zeros(len(x)))
    difference = found.int() - expected.int()
    assert set(difference.unique().tolist()) <= {0, 1}  # Pillow's doubles may fall just below a whole number
    assert (difference == 0).float().mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(turn=st.floats(-0.5, 0.5, width=32))
def test_hue_turns_the_colour_circle(turn: float) -> None:
    x = pictures()[:, :, ::5, ::5]
    turns = torch.full((len(x),), turn) * torch.linspace(-1, 1, len(x))

    found = colour.hue(x, turns)

    pixels = x.permute(0, 2, 3, 1).reshape(len(x), -1, 3)
    for image, change, result in zip(pixels.tolist(), turns.tolist(), found.flatten(2).mT, strict=True):
        for rgb, ours in zip(image, result.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
            expected = [255 * channel for channel in colorsys.hsv_to_rgb((h + change) % 1, s, v)]
            assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) <= 0.502  # rounded to whole values


def test_the_primary_colours_follow_each_other() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(3, 3, 2, 2)

    turned = colour.hue(red, torch.tensor([0.0, 1 / 3, 2 / 3]))

    assert turned[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_grey_images_have_no_hue_and_no_saturation() -> None:
    x = pictures()[:, :1]

    assert torch.equal(colour.hue(x, torch.full((len(x),), 0.3)), x)
    assert torch.equal(colour.saturation(x, torch.zeros(len(x))), x)


def test_an_image_too_small_for_the_kernel_keeps_its_sharpness() -> None:
    x = pictures()[:, :, :2]

    assert torch.equal(colour.sharpness(x, torch.full((len(x),), 2.0)), x)
