import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv.data import augment
from dynconv.data.augment import AugmentConfig, Batch, Epoch, blanked, boxes, cutmix, mirror, mixup, shifted
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Split

PLAIN = AugmentConfig(flip="none", translate=0)


def images(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


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
    for one, shift, moved in zip(x.split(1), shifts.split(1), together.split(1), strict=True):
        assert torch.equal(shifted(one, shift, 2), moved)


def test_boxes_are_clipped_at_the_border() -> None:
    mask = boxes(torch.tensor([[0, 0], [4, 4]]), 8, 8, 4, 4)

    assert mask.shape == (2, 1, 8, 8)
    assert mask.sum((1, 2, 3)).tolist() == [4, 16]
    assert mask[1, 0, 2:6, 2:6].all()


def test_cutout_blanks_a_square_with_the_mean_colour() -> None:
    x = images().float() / 255

    cut = blanked(x, torch.full((6, 2), 4), 4)

    torch.testing.assert_close(cut[:, :, 2:6, 2:6], x.mean((0, 2, 3), keepdim=True).expand(6, 3, 4, 4))
    assert torch.equal(cut[:, :, :2], x[:, :, :2])


def test_mixup_and_cutmix_mix_targets_as_they_mix_images() -> None:
    x, target, order = images().float(), torch.eye(6), torch.tensor([1, 2, 3, 4, 5, 0])

    mixed, targets = mixup(x, target, order, 0.75)
    torch.testing.assert_close(mixed, 0.75 * x + 0.25 * x[order])
    torch.testing.assert_close(targets, 0.75 * target + 0.25 * target[order])

    pasted, targets = cutmix(x, target, order, 0.75, torch.tensor([0, 0]))  # a 4x4 box, a quarter of it inside
    assert torch.equal(pasted[:, :, :2, :2], x[order][:, :, :2, :2]) and torch.equal(pasted[:, :, 2:], x[:, :, 2:])
    torch.testing.assert_close(targets, (60 * target + 4 * target[order]) / 64)


def test_a_registered_augmentation_needs_no_other_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in its stage, begins once per epoch, and leaves alone what the seed decided before."""
    monkeypatch.setattr(augment, "FACTORIES", list(augment.FACTORIES))
    begun: list[int] = []

    @augment.augmentation("image")
    def halve(config: AugmentConfig, epoch: Epoch) -> augment.Augmentation:
        begun.append(epoch.number)
        return lambda batch: replace(batch, images=batch.images / 2)

    split = Split(images(20), torch.arange(20) % 10)
    halved = list(training_batches(split, 10, AugmentConfig(), 10, 8, 3, 0))
    monkeypatch.undo()
    plain = list(training_batches(split, 10, AugmentConfig(), 10, 8, 3, 0))

    assert begun == [3] and len(halved) == 2
    for (x, target), (x_plain, target_plain) in zip(halved, plain, strict=True):
        assert torch.equal(x, x_plain / 2) and torch.equal(target, target_plain)


def test_without_augmentations_no_factory_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()

    apply = augment.begin(PLAIN, Epoch(0, 0, 6, 10, generator))
    batch = Batch(images(), torch.arange(6), torch.arange(6), 0)

    assert all(apply(stage, batch) is batch for stage in ("pixels", "image", "batch"))
    assert torch.equal(generator.get_state(), before)
