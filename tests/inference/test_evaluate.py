import math
from typing import cast

import pytest
import torch
from rich.console import Console
from torch import Tensor

from dynconv.data import Dataset, Split
from dynconv.data.frame import Frame
from dynconv.errors import DynconvError
from dynconv.inference import evaluate as using
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


@pytest.fixture
def metrics() -> using.Metrics:
    # True classes 0 0 1 1 2, predicted 0 1 1 1 0.
    logits = [[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0], [2, 0, 0]]
    return using.evaluate(fixed(logits), split(0, 0, 1, 1, 2))


def test_figures_by_hand(metrics: using.Metrics) -> None:
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


def test_tables_show_accuracy_and_confusion(metrics: using.Metrics) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(using.as_tables(metrics, metrics, CLASSES))
    lines = capture.get().splitlines()

    assert "60.00%" in lines[0] and "5 images" in lines[0] and "TTA" in lines[1]
    cat = next(line for line in lines if "cat" in line and "%" in line)
    assert "50.00%" in cat and cat.split().count("1") == 2


def test_many_classes_show_what_each_is_taken_for() -> None:
    classes = tuple(f"kind {number}" for number in range(20))
    confusion = torch.eye(20, dtype=torch.int64) * 3
    confusion[4, 17] = 2
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(using.as_tables(using.Metrics(0.9, 0.5, confusion, torch.ones(62, 20)), None, classes))
    text = capture.get()

    row = next(line for line in text.splitlines() if "kind 4 " in line)
    assert "60.00%" in row and "kind 17 (2 times)" in row
    assert text.count("times") == 1


def test_dict_has_each_class_by_name(metrics: using.Metrics) -> None:
    figures = using.as_dict(metrics, None, CLASSES)

    assert figures["per_class"] == {"cat": 0.5, "dog": 1.0, "owl": 0.0}
    assert figures["accuracy_tta"] is None and figures["images"] == 5


def test_other_classes_than_the_networks_are_refused() -> None:
    with pytest.raises(DynconvError, match="classes") as caught:
        using.load_dataset(fixed([[0.0]]))  # shapes has ten
    assert "cat, dog, owl" in str(caught.value)


def test_a_split_that_was_not_held_out_is_refused() -> None:
    dataset = Dataset(name="x", classes=CLASSES, train=split(0), test=split(1), origin="", validation=None)

    assert using.choose_split(dataset, "test") is dataset.test
    with pytest.raises(DynconvError, match="validation"):
        using.choose_split(dataset, "validation")
