from typing import Any

import pytest
from tiny import CONFIG

from dynconv.data import shapes
from dynconv.errors import DynconvError
from dynconv.training import timing
from dynconv.training.timing import epochs_within, equal_time

DATA = shapes.generate(0, 600, 100)
BASE = CONFIG.model_copy(update={"epochs": 4, "image_sizes": (16, 24)})


def narrower(**fields: Any) -> Any:
    return BASE.model_copy(update={"model": BASE.model.model_copy(update={"widths": (4, 4)}), **fields})


def test_takes_the_number_of_epochs_whose_time_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base: 2 epochs of 1 s per step and 2 of 2 s. The other: 5 of 0.4 s and 4 of 0.9 s; one more would be too long."""
    seconds = {16: [1.0, 0.4], 24: [2.0, 0.9]}
    monkeypatch.setattr(timing, "_side_by_side", lambda pair, size: seconds[size])

    assert equal_time(BASE, narrower(), DATA, device="cpu") == (9, pytest.approx(5.6 / 6))
    assert equal_time(BASE, narrower(batch_size=300, micro_batch=300), DATA, device="cpu")[0] == 28, (
        "a third of the steps"
    )
    seconds |= {16: [1.0, 50.0], 24: [2.0, 60.0]}
    assert equal_time(BASE, narrower(), DATA, device="cpu") == (1, pytest.approx(10.0)), "one epoch at least"


def test_what_costs_the_same_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("timed")

    monkeypatch.setattr(timing, "_side_by_side", refuse)
    slower_learner = BASE.model_copy(update={"optim": BASE.optim.model_copy(update={"lr": 0.01})})
    averaged = BASE.model_copy(update={"optim": BASE.optim.model_copy(update={"ema": 0.9})})

    assert equal_time(BASE, slower_learner, DATA, device="cpu") == (4, 1.0)
    with pytest.raises(AssertionError, match="timed"):
        equal_time(BASE, averaged, DATA, device="cpu")


def test_as_many_epochs_as_fit_into_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of 1 s and 2 s a step, 6 steps an epoch; an evaluation of 3 s, and seven times that at the end."""
    monkeypatch.setattr(timing, "_side_by_side", lambda _, size: [{16: 1.0, 24: 2.0}[size]])
    monkeypatch.setattr(timing._Timed, "evaluation_seconds", lambda _: 3.0)
    with_tta = BASE.model_copy(update={"tta": True})

    assert epochs_within(with_tta, DATA, 6 + 12 + 2 * 3 + 21, device="cpu") == (2, 45.0)
    assert epochs_within(with_tta, DATA, 44.9, device="cpu") == (1, 12 + 3 + 21)
    assert epochs_within(BASE.model_copy(update={"tta": False}), DATA, 10_000, device="cpu")[0] > 700
    with pytest.raises(DynconvError, match="take about 36 s here, more than the 30 s of --time"):
        epochs_within(with_tta, DATA, 30, device="cpu")


def test_an_evaluation_is_timed_by_a_part_of_the_images() -> None:
    timed = timing._Timed(BASE, DATA, "cpu", False)

    assert timed.evaluation_seconds() > 0
    assert timed._learner.net.training
