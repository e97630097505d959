import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from dynconv.data import Dataset, Split
from dynconv.data.frame import Frame
from dynconv.errors import DynconvError
from dynconv.inference import evaluate as using
from dynconv.inference import evaluation_tables, trained_data
from dynconv.inference.metrics import Metrics
from dynconv.inference.predictor import Predictor

CLASSES = ("cat", "dog", "owl")


class Fixed:
    """Stands for a predictor whose logits are known."""

    classes = CLASSES
    data_name = "shapes"
    run = None
    frame = Frame()

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, images: Tensor, *, tta: bool = False) -> Tensor:
        return self._logits.flip(1) if tta else self._logits


def fixed(logits: list[list[float]]) -> Predictor:
    return cast(Predictor, Fixed(torch.tensor(logits)))


def split(*labels: int) -> Split:
    return Split(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels))


def shown(plain: Metrics, tta: Metrics | None, classes: tuple[str, ...]) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(evaluation_tables.as_tables(plain, tta, classes))
    return capture.get()


@pytest.fixture
def metrics() -> Metrics:
    # True classes 0 0 1 1 2, predicted 0 1 1 1 0.
    logits = [[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0], [2, 0, 0]]
    return using.evaluate(fixed(logits), split(0, 0, 1, 1, 2))


def test_figures_by_hand(metrics: Metrics) -> None:
    right, wrong = -math.log(math.e**2 / (math.e**2 + 2)), -math.log(1 / (math.e**2 + 2))

    assert metrics.accuracy == 3 / 5
    assert metrics.loss == pytest.approx((3 * right + 2 * wrong) / 5)
    assert metrics.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert metrics.per_class == [0.5, 1.0, 0.0]
    torch.testing.assert_close(metrics.probabilities.sum(1), torch.ones(5))


def test_augmentation_is_passed_on() -> None:
    predictor = fixed([[1.0, 0, 0]])

    assert using.evaluate(predictor, split(2), tta=True).accuracy == 1
    assert using.evaluate(predictor, split(2)).accuracy == 0


def test_tables_show_accuracy_and_confusion(metrics: Metrics) -> None:
    lines = shown(metrics, metrics, CLASSES).splitlines()

    assert "60.00%" in lines[0] and "5 images" in lines[0] and "TTA" in lines[1]
    assert "macro accuracy 50.00%   macro F1 43.33%   ECE 18.70%" in lines[2]
    of_cat = [line.split() for line in lines if line.split()[:1] == ["cat"]]
    assert of_cat[0] == ["cat", "2", "50.00%", "50.00%", "50.00%", "dog", "(once)"]
    assert of_cat[1] == ["cat", "1", "1", "·"]
    thresholds = [line.split() for line in lines if line.split()[1:2] in (["100.0%"], ["0.0%"])]
    assert thresholds[0] == ["any", "100.0%", "60.00%"] and thresholds[-1] == ["99%", "0.0%", "-"]


def test_many_classes_show_what_each_is_taken_for() -> None:
    classes = tuple(f"kind {number}" for number in range(20))
    labels = torch.tensor([*range(20), *range(20), *range(20), 4, 4])
    predicted = labels.clone()
    predicted[-2:] = 17
    metrics = Metrics(labels, predicted, torch.eye(20)[predicted], 0.5)
    text = shown(metrics, None, classes)

    row = next(line for line in text.splitlines() if line.strip().startswith("kind 4 "))
    assert "60.00%" in row and "kind 17 (2 times)" in row
    assert text.count("times") == 1 and "true class (row)" not in text
    assert re.search(r"kind 4 +kind 17 +2 +40\.0%", text), "the commonest confusions, in place of the matrix"


def test_dict_has_each_class_by_name(metrics: Metrics) -> None:
    figures = using.as_dict(metrics, None, CLASSES)

    assert figures["per_class"] == figures["recall"] == {"cat": 0.5, "dog": 1.0, "owl": 0.0}
    assert figures["precision"] == {"cat": 0.5, "dog": pytest.approx(2 / 3), "owl": 0.0}
    assert figures["images_per_class"] == {"cat": 2, "dog": 2, "owl": 1}
    assert figures["accuracy_tta"] is None and figures["images"] == 5
    assert figures["top_5"] is None, "of three classes, five always hold the right one"
    assert figures["confused"][0] == {"true": "owl", "predicted": "cat", "count": 1, "share": 1.0}
    assert figures["thresholds"][0] == {"confidence": 0.0, "coverage": 1.0, "accuracy": 0.6}
    assert figures["thresholds"][-1]["accuracy"] is None


def test_a_class_without_images_is_null_in_json() -> None:
    metrics = using.evaluate(fixed([[2.0, 0, 0], [0, 0, 2]]), split(0, 0))

    figures = json.loads(json.dumps(using.as_dict(metrics, None, CLASSES), allow_nan=False))
    assert figures["per_class"] == {"cat": 0.5, "dog": None, "owl": None} and figures["macro_accuracy"] == 0.5
    lines = [line.split() for line in shown(metrics, None, CLASSES).splitlines()]
    assert next(line for line in lines if line[:1] == ["dog"]) == ["dog", "0", "-", "-", "-"]


def test_other_classes_than_the_networks_are_refused() -> None:
    with pytest.raises(DynconvError, match="classes") as caught:
        trained_data.load_dataset(fixed([[0.0]]))  # shapes has ten
    assert "cat, dog, owl" in str(caught.value)


def test_nothing_is_held_out_of_other_data_than_the_runs_own(tmp_path: Path) -> None:
    """Which may have too few images for it, or images for validation of its own."""
    images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "other.npz", **arrays)
    trained = SimpleNamespace(
        run=SimpleNamespace(
            config=SimpleNamespace(seed=0, holdout=5000),
            environment=SimpleNamespace(data_source=str(tmp_path / "other.npz"), data_checksums={}),
        ),
        frame=Frame(8), classes=("class 0", "class 1"), data_name="other",
    )  # fmt: skip
    predictor, other = cast("Predictor", trained), str(tmp_path / "other.npz")

    assert len(trained_data.load_dataset(predictor, other).train.labels) == 20
    with pytest.raises(DynconvError, match="holdout: 5000 takes"):
        trained_data.load_dataset(predictor, other, split="validation")
    trained.run.config.holdout = 4
    held = trained_data.load_dataset(predictor).validation
    assert held is not None and len(held.labels) == 4, "of its own, as in training"


def test_a_split_that_was_not_held_out_is_refused() -> None:
    dataset = Dataset(name="x", classes=CLASSES, train=split(0), test=split(1), origin="", validation=None)

    assert trained_data.choose_split(dataset, "test") is dataset.test
    with pytest.raises(DynconvError, match="validation"):
        trained_data.choose_split(dataset, "validation")
