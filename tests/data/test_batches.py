from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dynconv.data.augment import AugmentConfig
from dynconv.data.batches import balanced_order, resize, training_batches
from dynconv.data.dataset import Split

PLAIN = AugmentConfig(flip="none", translate=0)


def images(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def numbered(n: int) -> Split:
    """Image i has the value i everywhere, and label i modulo 10."""
    return Split(torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8), torch.arange(n) % 10)


def test_resize_keeps_what_has_the_size_already() -> None:
    x = images() / 255

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


UNEVEN = torch.tensor([0] * 70 + [2] * 20 + [3] * 7 + [4] * 3)
"""Labels of 100 images; no image is of class 1."""


def uneven() -> Split:
    """Image i has the value i everywhere."""
    return Split(torch.arange(100, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8), UNEVEN)


def values(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]]:
    return [x[:, 0, 0, 0].mul(255).round().int().tolist() for x, _ in batches]


@pytest.mark.parametrize("seed", range(5))
def test_balanced_classes_and_the_images_of_each_come_equally_often(seed: int) -> None:
    order = balanced_order(UNEVEN, torch.Generator().manual_seed(seed))

    assert len(order) == 100
    assert UNEVEN[order].bincount(minlength=5).tolist() == [25, 0, 25, 25, 25]
    for label in (0, 2, 3, 4):
        times = order.bincount(minlength=100)[label == UNEVEN]
        assert times.max() - times.min() <= 1
    assert not torch.equal(UNEVEN[order], UNEVEN[order].sort().values), "in random order"


def test_what_divides_no_class_evenly_falls_to_classes_at_random() -> None:
    labels = torch.tensor([0] * 9 + [1] * 1 + [2] * 1)
    counts = {tuple(labels[balanced_order(labels, torch.Generator().manual_seed(seed))].bincount().tolist())
              for seed in range(20)}  # fmt: skip

    assert all(sorted(each) == [3, 4, 4] for each in counts) and len(counts) == 3


def test_a_balanced_epoch_is_set_by_seed_and_epoch_and_can_begin_anywhere() -> None:
    def shown(epoch: int, seed: int = 0, **part: Any) -> list[list[int]]:
        return values(training_batches(uneven(), 5, PLAIN, 10, 8, epoch, seed, balanced=True, **part))

    whole = shown(3)
    assert whole == shown(3) and whole != shown(4) and whole != shown(3, seed=1)
    assert shown(3, first=6) == whole[6:]
    mine = torch.tensor([1, 4, 7])
    assert shown(3, mine=mine) == [[batch[place] for place in mine] for batch in whole]
    assert shown(3, mine=mine, first=4) == [[batch[place] for place in mine] for batch in whole[4:]]
    commonest = [{value for batch in shown(epoch) for value in batch if value < 70} for epoch in range(4)]
    assert len(set.union(*commonest)) > 50, "of a common class there are others in each epoch"


def test_each_showing_of_a_repeated_image_is_augmented_on_its_own() -> None:
    split = Split(images(40, 12), torch.tensor([0] * 39 + [1]))
    batches = training_batches(split, 2, AugmentConfig(flip="random", translate=2), 40, 12, 0, 0, balanced=True)
    ((x, target),) = batches

    rare = {one.mul(255).round().byte().contiguous().numpy().tobytes() for one in x[target == 1]}
    assert int((target == 1).sum()) == 20 and len(rare) > 10


@pytest.mark.parametrize("fields", [{"cutout": 4}, {"mixup": 0.4, "cutmix": 0.4}])
def test_balanced_batches_are_the_same_in_several_processes(fields: dict[str, Any]) -> None:
    augment, mine = AugmentConfig(**fields), torch.tensor([3, 4, 5, 13])
    whole = training_batches(uneven(), 5, augment, 20, 8, 1, 0, balanced=True)
    part = training_batches(uneven(), 5, augment, 20, 8, 1, 0, mine=mine, balanced=True)

    for (all_images, target), (own_images, own_target) in zip(whole, part, strict=True):
        assert torch.equal(all_images[mine], own_images) and torch.equal(target[mine], own_target)
