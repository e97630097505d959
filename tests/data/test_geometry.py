"""Maps of pixels against Pillow's, and against what they promise."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dynconv.data import shapes
from dynconv.data.geometry import box_in, boxes, cropped, draw_boxes, inside, mirror, moved, rotated, sheared, shifted


def images(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def drawings(height: int = 32, width: int = 32) -> Tensor:
    return shapes.generate(0, 10, 10).train.images[:, :, :height, :width]


def by_pillow(x_NCHW: Tensor, values: Tensor, function: Callable[[Image.Image, float], Image.Image]) -> Tensor:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in x_NCHW]
    changed = [function(picture, value) for picture, value in zip(pictures, values.tolist(), strict=True)]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in changed])


def test_flip_mirrors_only_those_named() -> None:
    x = images(3)

    flipped = mirror(x, torch.tensor([True, False, True]))

    assert torch.equal(flipped[0, :, :, 0], x[0, :, :, -1]) and torch.equal(flipped[1], x[1])
    assert torch.equal(mirror(flipped, torch.tensor([True, False, True])), x)


@settings(max_examples=30, deadline=None)
@given(down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_translate_moves_by_the_shift_and_reflects(down: int, right: int) -> None:
    x = images(1, 9)
    expected = torch.empty_like(x)
    for row, col in itertools.product(range(9), repeat=2):
        from_row, from_col = (8 - abs(8 - abs(i)) for i in (row - down, col - right))
        expected[0, :, row, col] = x[0, :, from_row, from_col]

    assert torch.equal(shifted(x, torch.tensor([[down, right]]), 3), expected)


def test_translate_moves_each_image_by_its_own_shift() -> None:
    x = images(4)
    shifts = torch.tensor([[0, 0], [1, -2], [-2, 2], [2, 1]])

    together = shifted(x, shifts, 2)

    assert torch.equal(together[0], x[0])
    for one, shift, moved_one in zip(x.split(1), shifts.split(1), together.split(1), strict=True):
        assert torch.equal(shifted(one, shift, 2), moved_one)


def test_boxes_are_clipped_at_the_border() -> None:
    mask = boxes(torch.tensor([[0, 0], [4, 4]]), 8, 8, 4, 4)

    assert mask.shape == (2, 1, 8, 8)
    assert mask.sum((1, 2, 3)).tolist() == [4, 16]
    assert mask[1, 0, 2:6, 2:6].all()


@settings(max_examples=40, deadline=None)
@given(
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(lambda pair: tuple(sorted(pair))),
    height=st.integers(1, 224),
    width=st.integers(1, 224),
)
def test_drawn_boxes_fit_and_have_the_drawn_area(
    scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> None:
    drawn = draw_boxes(50, scale, ratio, torch.Generator().manual_seed(0))

    top, left, box_height, box_width = box_in(drawn, height, width).double().unbind(1)

    near = 1e-4
    assert (top >= -near).all() and (top + box_height <= height + near).all() and (box_height > 0).all()
    assert (left >= -near).all() and (left + box_width <= width + near).all() and (box_width > 0).all()
    share = box_height * box_width / (height * width)
    assert (share >= scale[0] * (1 - near)).all() and (share <= scale[1] * (1 + near)).all()
    found = box_width / box_height
    for at in range(50):  # within the range, or as near to it as fits: then the box is as high or as wide as the image
        fills = box_height[at] > height * (1 - near) or box_width[at] > width * (1 - near)
        assert fills or ratio[0] * (1 - near) <= found[at] <= ratio[1] * (1 + near)


def test_drawn_boxes_lie_all_over_the_image() -> None:
    drawn = draw_boxes(4000, (0.02, 0.4), (0.3, 3.3), torch.Generator().manual_seed(0))

    covered = inside(box_in(drawn, 16, 12), 16, 12)

    assert covered.shape == (4000, 1, 16, 12)
    assert covered.float().mean() == pytest.approx(0.21, abs=0.01)  # the mean area
    assert covered.any(0).all() and not covered.all(0).any()


def test_a_box_holds_the_pixels_whose_centres_are_in_it() -> None:
    mask = inside(torch.tensor([[1.0, 2, 3, 4], [0.6, 0.4, 1.0, 1.0]]), 8, 8)

    assert mask[0].sum() == 12 and mask[0, 0, 1:4, 2:6].all()
    assert mask[1].nonzero().tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 30)])
def test_a_crop_is_enlarged_as_pillow_does(height: int, width: int) -> None:
    x = drawings(height, width)
    drawn = draw_boxes(len(x), (0.08, 1), (0.75, 1.33), torch.Generator().manual_seed(0))
    box = box_in(drawn, height, width)

    found = cropped(x, box)

    for image, (top, left, high, wide), ours in zip(x, box.tolist(), found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        edges = (left, top, min(left + wide, width), min(top + high, height))
        theirs = torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.BILINEAR, box=edges)))
        assert (ours.permute(1, 2, 0).int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [3, 24, 32, 45, 224])
def test_a_crop_of_the_whole_image_is_the_image(size: int) -> None:
    x = images(2, size)

    assert torch.equal(cropped(x, torch.tensor([0.0, 0, size, size]).expand(2, 4)), x)


def test_a_crop_of_whole_pixels_repeats_their_centres() -> None:
    x = images(1, 9)

    found = cropped(x, torch.tensor([[3.0, 0, 3, 9]]))  # three rows, each three times as high

    assert torch.equal(found[:, :, 1::3], x[:, :, 3:6])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (21, 30)])
def test_maps_are_those_of_pillow(height: int, width: int) -> None:
    x = drawings(height, width)

    def near(found: Tensor, expected: Tensor) -> None:
        """Equal but for pixels that fall on an edge between two: Pillow counts in steps of 1/65536."""
        assert found.dtype == torch.uint8 and found.shape == expected.shape
        assert (found == expected).all(1).float().mean() > 0.98

    for degrees in ((0.0, 90, -90, 180, 5), (9, -31, 121, -135, 67)):
        angles = torch.tensor(degrees).repeat(2)
        near(rotated(x, angles), by_pillow(x, angles, lambda p, v: p.rotate(v)))
    size, how = (width, height), Image.Transform.AFFINE
    slopes = torch.tensor([0.0, 0.03, -0.3, 0.99, -0.7]).repeat(2)
    near(sheared(x, slopes), by_pillow(x, slopes, lambda p, v: p.transform(size, how, (1, v, 0, 0, 1, 0))))
    near(
        sheared(x, slopes, vertical=True),
        by_pillow(x, slopes, lambda p, v: p.transform(size, how, (1, 0, 0, v, 1, 0))),
    )
    pixels = torch.tensor([0.0, 1, -7, 20, -32]).repeat(2)
    expected = by_pillow(x, pixels, lambda p, v: p.transform(size, how, (1, 0, v, 0, 1, 0)))
    assert torch.equal(moved(x, pixels), expected)
    expected = by_pillow(x, pixels, lambda p, v: p.transform(size, how, (1, 0, 0, 0, 1, v)))
    assert torch.equal(moved(x, pixels, vertical=True), expected)


def test_maps_of_strength_zero_change_nothing_and_quarter_turns_lose_nothing() -> None:
    x, zero = images(4, 32), torch.zeros(4)

    assert torch.equal(rotated(x, zero), x) and torch.equal(sheared(x, zero), x) and torch.equal(moved(x, zero), x)
    assert torch.equal(rotated(x, zero + 90), x.rot90(1, (2, 3)))
    assert torch.equal(moved(x, zero + 32), torch.zeros_like(x))
