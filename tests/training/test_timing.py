from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG

from dynconv.data import shapes
from dynconv.errors import DynconvError
from dynconv.training import timing
from dynconv.training.config import MOST_EPOCHS
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


@given(st.integers(1, 40), st.lists(st.sampled_from([16, 20, 24, 28, 32]), min_size=1, max_size=7))
def test_the_time_of_all_steps_is_that_of_each_epochs(epochs: int, sizes: list[int]) -> None:
    config = BASE.model_copy(update={"epochs": epochs, "image_sizes": tuple(sizes)})
    seconds = {size: size**2.5 for size in sizes}

    one_by_one = sum(6 * seconds[config.image_size(epoch)] for epoch in range(epochs))

    assert timing._run_seconds(config, epochs, seconds, 600) == pytest.approx(one_by_one)


@given(st.integers(0, 2_000_000))
def test_the_most_that_fit_are_found_without_trying_all(most: int) -> None:
    tried: list[int] = []

    def fits(epochs: int) -> bool:
        tried.append(epochs)
        return epochs <= most

    assert timing._most(fits) == min(max(most, 1), MOST_EPOCHS)
    assert len(tried) < 50


def test_an_evaluation_is_timed_by_a_part_of_the_images() -> None:
    timed = timing._Timed(BASE, DATA, "cpu", False)

    assert timed.evaluation_seconds() > 0
    assert timed._learner.net.training
