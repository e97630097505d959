"""The policies, operation by operation at every level, against the same with Pillow, and how they draw."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from dynconv.data import shapes
from dynconv.data.policies import RAND_AUGMENT, TRIVIAL_AUGMENT_WIDE, Operation, draw_values, operated

SIDE = 32
Pil = Image.Image


def mapped(*matrix: float) -> Callable[[Pil], Pil]:
    return lambda picture: picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def enhanced(enhancer: type[ImageEnhance.Color], factor: float) -> Callable[[Pil], Pil]:
    return lambda picture: enhancer(picture).enhance(factor)


def wide(name: str, level: int, sign: int) -> Callable[[Pil], Pil]:
    """TrivialAugment Wide, from its paper's list of operations and ranges, with Pillow."""
    share = level / 30
    shift = sign * int(share * 32 + 1e-9)
    return {
        "Identity": lambda picture: picture,
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Rotate": lambda picture: picture.rotate(sign * int(share * 135 + 1e-9)),
        "Solarize": lambda picture: ImageOps.solarize(picture, 256 - int(share * 256 + 1e-9)),
        "Color": enhanced(ImageEnhance.Color, 0.01 + 1.99 * share),
        "Posterize": lambda picture: ImageOps.posterize(picture, 8 - int(share * 6 + 1e-9)),
        "Contrast": enhanced(ImageEnhance.Contrast, 0.01 + 1.99 * share),
        "Brightness": enhanced(ImageEnhance.Brightness, 0.01 + 1.99 * share),
        "Sharpness": enhanced(ImageEnhance.Sharpness, 0.01 + 1.99 * share),
        "ShearX": mapped(1, sign * 0.99 * share, 0, 0, 1, 0),
        "ShearY": mapped(1, 0, 0, sign * 0.99 * share, 1, 0),
        "TranslateX": mapped(1, 0, shift, 0, 1, 0),
        "TranslateY": mapped(1, 0, 0, 0, 1, shift),
    }[name]


def rand(name: str, level: int, sign: int) -> Callable[[Pil], Pil]:
    """RandAugment with AutoAugment's ranges and enhancements around the image as it is."""
    share = level / 30
    shift = sign * int(share * 150 / 331 * SIDE)
    return {
        "Identity": lambda picture: picture,
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Rotate": lambda picture: picture.rotate(sign * level),
        "Solarize": lambda picture: ImageOps.solarize(picture, 256 - int(share * 256 + 1e-9)),
        "Color": enhanced(ImageEnhance.Color, 1 + sign * 0.9 * share),
        "Posterize": lambda picture: ImageOps.posterize(picture, 8 - int(share * 4 + 1e-9)),
        "Contrast": enhanced(ImageEnhance.Contrast, 1 + sign * 0.9 * share),
        "Brightness": enhanced(ImageEnhance.Brightness, 1 + sign * 0.9 * share),
        "Sharpness": enhanced(ImageEnhance.Sharpness, 1 + sign * 0.9 * share),
        "ShearX": mapped(1, sign * 0.3 * share, 0, 0, 1, 0),
        "ShearY": mapped(1, 0, 0, sign * 0.3 * share, 1, 0),
        "TranslateX": mapped(1, 0, shift, 0, 1, 0),
        "TranslateY": mapped(1, 0, 0, 0, 1, shift),
    }[name]


SPACES = [(TRIVIAL_AUGMENT_WIDE, wide), (RAND_AUGMENT, rand)]


def pictures(n: int) -> Tensor:
    return shapes.generate(0, n, 10).train.images


@pytest.mark.parametrize(("space", "expected"), SPACES, ids=["wide", "rand"])
@pytest.mark.parametrize("number", range(14), ids=[operation.name for operation in RAND_AUGMENT])
def test_an_operation_at_every_level_is_that_of_pillow(
    space: tuple[Operation, ...], expected: Callable[[str, int, int], Callable[[Pil], Pil]], number: int
) -> None:
    levels = torch.arange(31).repeat(2)[:, None]
    negative = (torch.arange(62) >= 31)[:, None]
    x, operation = pictures(62), torch.full((62, 1), number)

    found = operated(x, space, operation, draw_values(space, operation, levels, negative))

    name, signed, close = space[number].name, space[number].signed, []
    for image, ours, level, minus in zip(x, found, levels[:, 0].tolist(), negative[:, 0].tolist(), strict=True):
        picture = expected(name, level, -1 if minus and signed else 1)(Image.fromarray(image.permute(1, 2, 0).numpy()))
        theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        close.append(((ours.int() - theirs.int()).abs() <= 1).all(0).float().mean())
    # At some slopes, such as 0.2, a row of five falls on edges between pixels, where Pillow's steps of 1/65536 decide.
    least, mean = (0.8, 0.98) if name in ("Rotate", "ShearX", "ShearY") else (1, 1)
    assert min(close) >= least and torch.stack(close).mean() >= mean


def test_both_have_the_fourteen_operations_of_the_papers() -> None:
    assert [operation.name for operation in TRIVIAL_AUGMENT_WIDE] == [operation.name for operation in RAND_AUGMENT]
    assert len({operation.name for operation in RAND_AUGMENT}) == 14


@pytest.mark.parametrize("space", [TRIVIAL_AUGMENT_WIDE, RAND_AUGMENT], ids=["wide", "rand"])
def test_operations_follow_each_other_in_the_drawn_order(space: tuple[Operation, ...]) -> None:
    x = pictures(40)
    drawn = torch.Generator().manual_seed(3)
    operations, levels = (torch.randint(high, (40, 3), generator=drawn) for high in (14, 31))
    values = draw_values(space, operations, levels, torch.rand(40, 3, generator=drawn) < 0.5)

    together = operated(x, space, operations, values)

    by_turns = x
    for turn in range(3):
        by_turns = operated(by_turns, space, operations[:, turn : turn + 1], values[:, turn : turn + 1])
    assert torch.equal(together, by_turns)
    one_by_one = [operated(x[i : i + 1], space, operations[i : i + 1], values[i : i + 1]) for i in range(40)]
    assert torch.equal(together, torch.cat(one_by_one))
    assert torch.equal(x, pictures(40))  # the images that came in stay as they were


def test_the_translations_of_randaugment_grow_with_the_image() -> None:
    x = torch.full((1, 3, 64, 48), 255, dtype=torch.uint8)
    across, down = ([operation.name for operation in RAND_AUGMENT].index(f"Translate{axis}") for axis in "XY")

    for number, black in ((across, 64 * int(48 * 150 / 331)), (down, 48 * int(64 * 150 / 331))):
        operation = torch.tensor([[number]])
        value = draw_values(RAND_AUGMENT, operation, torch.tensor([[30]]), torch.tensor([[False]]))
        assert (operated(x, RAND_AUGMENT, operation, value)[0, 0] == 0).sum() == black
