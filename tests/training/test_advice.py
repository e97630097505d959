"""What is said before training comes to nothing, and what to change."""

from typing import Any

import pytest
import torch
from tiny import CONFIG

from dynconv.training import advice

CLASSES = ("cat", "dog", "owl")


def said(*images: int, **fields: Any) -> list[str]:
    """For a training set with these numbers of images per class."""
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    usual = {"epochs": 10, "batch_size": 50, "image_sizes": (24, 32)}
    return advice.on_data(CONFIG.model_copy(update=usual | fields), labels, CLASSES, 32)


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert said(300, 300, 300) == [] == said(500, 500, 101)


@pytest.mark.parametrize(
    ("batch", "epochs", "line"),
    [
        (600, 9, "a batch of 600 takes the 600 training images: one step an epoch; lower --batch-size, "
                 "for example to 16"),
        (900, 9, "a batch of 900 is larger than the 600 training images: one step an epoch; lower --batch-size, "
                 "for example to 16"),
        (100, 4, "only 24 steps in total (6 per epoch): too few to learn much; lower --batch-size, for example to 16, "
                 "or raise --epochs"),
        (25, 1, "only 24 steps in total (24 per epoch): too few to learn much; lower --batch-size, for example to 16, "
                "or raise --epochs"),
    ],
)  # fmt: skip
def test_too_few_steps(batch: int, epochs: int, line: str) -> None:
    assert said(200, 200, 200, batch_size=batch, epochs=epochs) == [line]


@pytest.mark.parametrize(("batch", "epochs"), [(100, 4), (200, 2), (25, 1)])
def test_who_follows_the_advice_is_not_told_again(batch: int, epochs: int) -> None:
    (line,) = said(200, 200, 200, batch_size=batch, epochs=epochs)
    advised = int(line.partition("for example to ")[2].partition(",")[0])

    assert said(200, 200, 200, batch_size=advised, epochs=epochs) == []


def test_training_that_ends_at_another_size_than_it_is_tested_at() -> None:
    assert said(300, 300, 300, image_sizes=(32, 16)) == [
        "training ends with images of 16 pixels and is tested with 32: accuracy will be lower than it could be; "
        "end --image-sizes with 32"
    ]


def test_a_handful_of_images() -> None:
    assert said(2, 2, 2, batch_size=500) == [
        "a batch of 500 is larger than the 6 training images: one step an epoch; add images"
    ]


def test_uneven_classes() -> None:
    (line,) = said(1000, 0, 200)
    assert line == (
        "uneven classes, from 200 images (owl) to 1,000 (cat): rare ones will be recognised less often; "
        "try --sampling balanced or --class-weights balanced"
    )
    assert said(1000, 0, 200, sampling="balanced") == [] == said(1000, 0, 200, class_weights="balanced")


@pytest.mark.parametrize(
    ("images", "fields", "end"),
    [
        ((50, 50), {}, "raise --epochs, or change --optim.lr (now 0.17)"),
        ((90, 10), {}, "try --sampling balanced"),
        ((90, 10), {"sampling": "balanced"}, "raise --epochs, or change --optim.lr (now 0.17)"),
    ],
)
def test_no_better_than_chance(images: tuple[int, int], fields: dict[str, Any], end: str) -> None:
    labels, config = torch.tensor([0] * images[0] + [1] * images[1]), CONFIG.model_copy(update=fields)

    (line,) = advice.on_accuracy(images[0] / 100, labels, config)
    assert line.startswith(f"the accuracy is no better than chance ({images[0]}.00%)") and line.endswith(end)
    assert advice.on_accuracy(images[0] / 100 + 0.01, labels, config) == []


def test_few_images_cannot_tell_whether_anything_was_learned() -> None:
    (line,) = advice.on_accuracy(1 / 3, torch.tensor([0, 1, 2]), CONFIG)

    assert line == "the 3 images that it was tested on are too few to tell whether it learned anything"
