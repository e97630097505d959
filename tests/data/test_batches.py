import pytest
import torch

from dynconv.data.augment import AugmentConfig
from dynconv.data.batches import resize, training_batches
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
