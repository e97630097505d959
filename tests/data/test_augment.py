from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv.data import augment, shapes
from dynconv.data.augment import AugmentConfig, Batch, Epoch, blanked, cutmix, mixup
from dynconv.data.batches import training_batches
from dynconv.data.dataset import Split
from dynconv.errors import DynconvError
from dynconv.validation import validate

PLAIN = AugmentConfig(flip="none", translate=0)

EACH: dict[str, dict[str, Any]] = {
    "crop": {"crop_scale": (0.1, 0.9)},
    "brightness": {"brightness": 0.8},
    "contrast": {"contrast": 0.8},
    "saturation": {"saturation": 0.8},
    "hue": {"hue": 0.4},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "trivialaugment": {"policy": "trivialaugment"},
    "randaugment": {"policy": "randaugment", "randaugment_operations": 3, "randaugment_magnitude": 20},
    "erase": {"erase": 0.7},
    "all": {
        "flip": "random", "translate": 2, "crop_scale": (0.3, 1), "brightness": 0.4, "hue": 0.2,
        "policy": "trivialaugment", "erase": 0.5,
    },
}  # fmt: skip
"""Augmentations that work on each image by itself."""


def images(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


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


def augmented(config: AugmentConfig, x: torch.Tensor, index: torch.Tensor, images_in_split: int) -> torch.Tensor:
    """The images after all stages; `x` are those of the split at `index`. Epoch 1 of seed 2."""
    generator = torch.Generator().manual_seed(0)
    apply = augment.begin(config, Epoch(1, 2, images_in_split, 10, generator))
    batch = apply("pixels", Batch(x[index], index % 10, index, 0))
    assert batch.images.dtype == torch.uint8 and batch.images.shape == x[index].shape
    batch = apply("image", replace(batch, images=batch.images.float() / 255))
    batch = apply("batch", batch)
    assert batch.images.dtype == torch.float32 and batch.images.shape == x[index].shape
    assert not len(index) or (batch.images.min() >= 0 and batch.images.max() <= 1)
    assert torch.equal(batch.target, index % 10) and torch.equal(batch.index, index)
    return batch.images


@pytest.mark.parametrize("name", EACH)
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    channels=st.sampled_from([1, 3]),
    order=st.permutations(range(12)),
    cuts=st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted),
)
def test_what_happens_to_an_image_does_not_depend_on_its_batch(
    name: str, height: int, width: int, channels: int, order: list[int], cuts: list[int]
) -> None:
    generator = torch.Generator().manual_seed(height)
    x = torch.randint(0, 256, (12, channels, height, width), dtype=torch.uint8, generator=generator)
    original, config = x.clone(), AugmentConfig(**{"flip": "none", "translate": 0, **EACH[name]})
    assert not config.needs_whole_batch

    together = augmented(config, x, torch.arange(12), 12)

    index = torch.tensor(order)
    parts = [augmented(config, x, part, 12) for part in index.tensor_split(cuts)]
    assert torch.equal(torch.cat(parts), together[index])
    assert torch.equal(x, original)


@pytest.mark.parametrize("mixed", [{}, {"cutmix": 1.0}], ids=["each by itself", "mixed"])
def test_processes_that_share_a_batch_see_what_one_would(mixed: dict[str, Any]) -> None:
    split = Split(shapes.generate(0, 60, 10).train.images, torch.arange(60) % 10)
    config = AugmentConfig(**EACH["all"], **mixed)

    def batches(mine: torch.Tensor | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(training_batches(split, 10, config, 20, 24, 1, 0, mine=mine))

    shares = [batches(mine) for mine in torch.arange(20).tensor_split(3)]
    for (x, target), *parts in zip(batches(None), *shares, strict=True):
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(target, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize("name", EACH)
def test_each_changes_most_images_and_another_epoch_changes_them_otherwise(name: str) -> None:
    split = Split(shapes.generate(0, 60, 10).train.images, torch.arange(60) % 10)
    config = AugmentConfig(**{"flip": "none", "translate": 0, **EACH[name]})

    def epoch(number: int, config: AugmentConfig) -> torch.Tensor:
        apply = augment.begin(config, Epoch(number, 0, 60, 10, torch.Generator().manual_seed(number)))
        batch = Batch(split.images, split.labels, torch.arange(60), 0)
        batch = apply("pixels", batch)
        return apply("image", replace(batch, images=batch.images.float() / 255)).images

    plain, first, second = epoch(0, PLAIN), epoch(0, config), epoch(1, config)
    assert torch.equal(first, epoch(0, config))
    assert (first != plain).flatten(1).any(1).float().mean() > 0.5
    assert (first != second).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_scale": (1.0, 1.0), "crop_ratio": (0.5, 2.0)},
        {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        {"policy": "none", "randaugment_operations": 4, "randaugment_magnitude": 30},
        {"erase": 0.0, "erase_scale": (0.5, 0.5), "erase_ratio": (1.0, 1.0)},
    ],
    ids=["crop", "jitter", "policy", "erase"],
)
def test_at_strength_zero_an_epoch_is_as_without(changes: dict[str, Any]) -> None:
    split = Split(images(20), torch.arange(20) % 10)
    without = AugmentConfig(flip="random", translate=1, cutout=3, mixup=0.5)

    found, expected = (
        list(training_batches(split, 10, config, 10, 8, 3, 0))
        for config in (AugmentConfig(flip="random", translate=1, cutout=3, mixup=0.5, **changes), without)
    )

    for (x, target), (x_expected, target_expected) in zip(found, expected, strict=True):
        assert torch.equal(x, x_expected) and torch.equal(target, target_expected)


def test_flips_and_shifts_are_drawn_before_all_others() -> None:
    """So they are the same ones, whatever else is on."""
    x = torch.zeros(200, 3, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 3] = 200
    config = AugmentConfig(flip="random", translate=2)

    plain = augmented(config, x, torch.arange(200), 200)
    dim = augmented(config.model_copy(update={"brightness": 0.5}), x, torch.arange(200), 200)

    assert torch.equal(plain > 0, dim > 0) and not torch.equal(plain, dim)
    assert len({tuple(image[0].nonzero()[0].tolist()) for image in plain}) > 15


def test_jitter_stays_within_its_strength_and_reaches_it() -> None:
    x = torch.full((2000, 3, 4, 4), 100, dtype=torch.uint8)

    values = 255 * augmented(PLAIN.model_copy(update={"brightness": 0.4}), x, torch.arange(2000), 2000)[:, 0, 0, 0]

    assert values.min().round() in (60, 61) and values.max().round() in (139, 140)
    assert values.mean() == pytest.approx(99.5, abs=1.5)


def test_erasing_fills_a_box_with_noise_in_the_share_of_images_asked_for() -> None:
    x = torch.full((2000, 3, 16, 16), 51, dtype=torch.uint8)
    config = PLAIN.model_copy(update={"erase": 0.25, "erase_scale": (0.25, 0.25), "erase_ratio": (1.0, 1.0)})

    erased = augmented(config, x, torch.arange(2000), 2000)

    changed = (erased != 0.2).any(1)
    sizes = changed.sum((1, 2))
    assert set(sizes.tolist()) <= {0, 49, 56, 64}  # eight pixels to a side, where its edges fall between pixels too
    assert (sizes > 0).float().mean() == pytest.approx(0.25, abs=0.03)
    noise = erased[changed[:, None].expand_as(erased)]
    assert noise.mean() == pytest.approx(0.5, abs=0.01) and noise.std() == pytest.approx(12**-0.5, abs=0.01)
    hidden = erased[sizes > 0][:2, :, 4:12, 4:12]
    assert not torch.equal(hidden[0], hidden[1])  # each image has its own noise


def test_trivialaugment_draws_levels_anew_and_randaugment_has_one() -> None:
    x = torch.full((4000, 3, 3, 3), 100, dtype=torch.uint8)

    def values(**changes: Any) -> list[int]:
        changed = augmented(PLAIN.model_copy(update=changes), x, torch.arange(4000), 4000)
        return (255 * changed[:, 0, 1, 1]).round().int().unique().tolist()

    # Of a plain image only brightness, solarize and posterize change the middle, or a map that moves it outside.
    assert set(values(policy="trivialaugment")) >= {1, 7, 100, 193, 200, 155, 96, 64, 0}
    one = values(policy="randaugment", randaugment_operations=1, randaugment_magnitude=10)
    assert one == [70, 100, 130]
    assert values(policy="randaugment", randaugment_operations=1, randaugment_magnitude=0) == [100]
    assert set(values(policy="randaugment", randaugment_operations=3, randaugment_magnitude=10)) >= {49, 70, 91, 130}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_scale", ["0.3"], "crop_scale: must be 2 values, not 1"),
        ("crop_scale", ["0.3", "0.5", "1"], "crop_scale: must be 2 values, not 3"),
        ("crop_scale", ["1", "0.3"], "crop_scale: must be the lesser number first, then the greater, not 1 0.3"),
        ("erase_scale", ["0", "0.3"], "erase_scale: must be numbers, above 0, at most 1, not 0"),
        ("hue", "0.6", "hue: must be a number, at least 0, at most 0.5, not 0.6"),
        ("policy", "trivial", "policy: must be one of none, trivialaugment, randaugment, not trivial"),
        (
            "randaugment_magnitude",
            "31",
            "randaugment_magnitude: must be a whole number, at least 0, at most 30, not 31",
        ),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_accepted(field: str, value: object, message: str) -> None:
    with pytest.raises(DynconvError) as error:
        validate(AugmentConfig, {field: value})

    assert str(error.value) == message
