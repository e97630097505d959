import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv.config import AugmentConfig
from dynconv.data.batches import boxes, cutmix, cutout, flip, mixup, resize, to_float, training_batches, translate
from dynconv.data.dataset import Split

PLAIN = AugmentConfig(flip="none", translate=0)


def images(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def numbered(n: int) -> Split:
    """Image i has the value i everywhere, and label i modulo 10."""
    return Split(torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8), torch.arange(n) % 10)


def test_flip_mirrors_only_those_named() -> None:
    x = images(3)

    flipped = flip(x, torch.tensor([True, False, True]))

    assert torch.equal(flipped[0, :, :, 0], x[0, :, :, -1]) and torch.equal(flipped[1], x[1])
    assert torch.equal(flip(flipped, torch.tensor([True, False, True])), x)


@settings(max_examples=30, deadline=None)
@given(down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_translate_moves_by_the_shift_and_reflects(down: int, right: int) -> None:
    x = images(1, 9)
    expected = torch.empty_like(x)
    for row, col in itertools.product(range(9), repeat=2):
        from_row, from_col = (8 - abs(8 - abs(i)) for i in (row - down, col - right))
        expected[0, :, row, col] = x[0, :, from_row, from_col]

    assert torch.equal(translate(x, torch.tensor([[down, right]]), 3), expected)


def test_translate_moves_each_image_by_its_own_shift() -> None:
    x = images(4)
    shifts = torch.tensor([[0, 0], [1, -2], [-2, 2], [2, 1]])

    together = translate(x, shifts, 2)

    assert torch.equal(together[0], x[0])
    for one, shift, moved in zip(x.split(1), shifts.split(1), together.split(1), strict=True):
        assert torch.equal(translate(one, shift, 2), moved)


def test_boxes_are_clipped_at_the_border() -> None:
    mask = boxes(torch.tensor([[0, 0], [4, 4]]), 8, 8, 4, 4)

    assert mask.shape == (2, 1, 8, 8)
    assert mask.sum((1, 2, 3)).tolist() == [4, 16]
    assert mask[1, 0, 2:6, 2:6].all()


def test_cutout_blanks_a_square_with_the_mean_colour() -> None:
    x = images().float() / 255

    cut = cutout(x, torch.full((6, 2), 4), 4)

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


def test_resize_keeps_what_has_the_size_already() -> None:
    x = to_float(images())

    assert resize(x, 8) is x
    assert resize(x, 4).shape == (6, 3, 4, 4)
    torch.testing.assert_close(resize(torch.full((1, 3, 8, 8), 0.3), 5), torch.full((1, 3, 5, 5), 0.3))


def test_an_epoch_shows_every_image_once_in_another_order_each_time() -> None:
    def shown(epoch: int, seed: int = 0) -> list[int]:
        batches = training_batches(numbered(40), 10, PLAIN, 10, 8, epoch, seed)
        return torch.cat([x[:, 0, 0, 0].mul(255).round() for x, _ in batches]).int().tolist()

    assert sorted(shown(0)) == list(range(40))
    assert shown(0) == shown(0) != shown(1)
    assert shown(0) != shown(0, seed=1)


def test_labels_stay_with_their_images() -> None:
    for x, target in training_batches(numbered(40), 10, PLAIN, 10, 4, 0, 0):
        assert torch.equal(x[:, 0, 0, 0].mul(255).round().long() % 10, target)


def test_batches_are_floats_in_channels_last_of_the_size_asked_for() -> None:
    split = Split(images(50, 32), torch.arange(50) % 10)
    x, target = next(training_batches(split, 10, AugmentConfig(cutout=8), 25, 24, 0, 0))

    assert x.shape == (25, 3, 24, 24) and x.dtype == torch.float32 and target.dtype == torch.int64
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.min() >= 0 and x.max() <= 1 + 1e-6


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    split = Split(images(30), torch.zeros(30, dtype=torch.int64))
    augment = AugmentConfig(flip="alternating", translate=0)

    def as_sets(epoch: int) -> set[bytes]:
        (x, _), *_ = training_batches(split, 10, augment, 30, 8, epoch, 0)
        return {one.mul(255).round().byte().contiguous().numpy().tobytes() for one in x}

    both = {one.contiguous().numpy().tobytes() for one in torch.cat((split.images, split.images.flip(3)))}
    assert as_sets(0) | as_sets(1) == both and not as_sets(0) & as_sets(1)
    assert as_sets(2) == as_sets(0)


@pytest.mark.parametrize(
    "augment", [AugmentConfig(mixup=0.4), AugmentConfig(cutmix=1.0), AugmentConfig(mixup=1, cutmix=1)]
)
def test_mixed_targets_are_probabilities(augment: AugmentConfig) -> None:
    split = Split(images(40), torch.arange(40) % 10)

    targets = torch.cat([target for _, target in training_batches(split, 10, augment, 10, 8, 0, 0)])

    assert targets.shape == (40, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    assert ((targets > 0) & (targets < 1)).any()


def test_what_fills_no_batch_is_left_out_and_a_small_set_is_one_batch() -> None:
    assert [len(x) for x, _ in training_batches(numbered(25), 10, PLAIN, 10, 8, 0, 0)] == [10, 10]
    assert [len(x) for x, _ in training_batches(numbered(5), 10, PLAIN, 10, 8, 0, 0)] == [5]
