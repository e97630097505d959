from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dynconv.data.contact_sheet import CLASSES, contact_sheet

COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)


def plain(labels: Sequence[int], height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """Images of one colour for each class: red, green, blue."""
    which = torch.tensor(labels, dtype=torch.int64)
    return COLOURS[which % 3, :, None, None].expand(-1, 3, height, width), which


def areas(sheet: Image.Image) -> list[int]:
    """Pixels of pure red, green and blue."""
    pixels = torch.from_numpy(np.array(sheet))
    return [int((pixels == colour).all(2).sum()) for colour in COLOURS]


def test_rows_are_classes_and_columns_their_first_images() -> None:
    images, labels = plain([1, 0, 1, 2, 1, 1, 0])

    sheet = contact_sheet(images, labels, ("red", "green", "blue"), columns=3)

    assert sheet.mode == "RGB"
    assert areas(sheet) == [2 * 64**2, 3 * 64**2, 1 * 64**2]  # enlarged to 64 pixels
    pixels = np.array(sheet)
    red, green, blue = (np.argwhere((pixels == colour.numpy()).all(2)) for colour in COLOURS)
    assert red.max(0)[0] < green.min(0)[0] and green.max(0)[0] < blue.min(0)[0]
    assert red.min(0)[1] == green.min(0)[1] == blue.min(0)[1]


def test_each_image_is_shown_enlarged_by_a_whole_number() -> None:
    images = torch.randint(0, 256, (1, 3, 24, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0] = torch.tensor([1, 2, 3])

    sheet = torch.from_numpy(np.array(contact_sheet(images, torch.zeros(1, dtype=torch.int64), ["a"])))

    top, left = (sheet == torch.tensor([1, 2, 3])).all(2).nonzero()[0].tolist()
    shown = sheet[top : top + 3 * 24, left : left + 3 * 30]
    assert torch.equal(shown[1::3, 1::3].permute(2, 0, 1), images[0])
    assert torch.equal(shown[::3, ::3], shown[2::3, 2::3])


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(100, 64, (100, 64)), (224, 224, (128, 128)), (512, 256, (128, 64)), (1, 9, (8, 72))]
)
def test_images_are_shown_at_a_size_that_can_be_judged(height: int, width: int, shown: tuple[int, int]) -> None:
    assert areas(contact_sheet(*plain([0, 0], height, width), ["red"]))[0] == 2 * shown[0] * shown[1]


def test_more_classes_than_rows_are_counted() -> None:
    names = [f"class {number}" for number in range(CLASSES + 80)]

    few = contact_sheet(*plain(range(CLASSES)), names[:CLASSES])
    many = contact_sheet(*plain(range(CLASSES + 80)), names)

    assert areas(few) == areas(many)
    assert 0 < many.height - few.height < 64  # one line of text more


def test_a_class_without_images_and_no_images_at_all_are_shown_as_such() -> None:
    images, labels = plain([0, 2])

    assert areas(contact_sheet(images, labels, ("red", "green", "blue"))) == [64**2, 0, 64**2]
    empty = contact_sheet(images[:0], labels[:0], ("red",))
    assert areas(empty) == [0, 0, 0] and empty.width > 40 and empty.height > 20


def test_grey_images_are_shown() -> None:
    images = torch.full((1, 1, 28, 28), 128, dtype=torch.uint8)

    sheet = np.array(contact_sheet(images, torch.zeros(1, dtype=torch.int64), ["grey"]))

    assert ((sheet == 128).all(2)).sum() >= 84**2


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_name_can_be_written(names: list[str]) -> None:
    sheet = contact_sheet(*plain([0]), names)

    assert sheet.width < 400


def test_names_that_the_font_lacks_can_be_told_apart() -> None:
    images, labels = plain([0, 1])

    def written(*names: str) -> list[bytes]:
        sheet = contact_sheet(images, labels, names)
        return [sheet.crop((0, top, 60, top + 64)).tobytes() for top in (12, 80)]

    first, second = written("猫", "狗")
    assert first != second
    assert written("Ωmega", "é")[0] != written("?mega", "é")[0]  # what the font has stays
    long = "a name that is far too long to stand beside its images"
    assert contact_sheet(images, labels, (long, "b")).width < 400
