from typing import Any

import pytest
from tiny import CONFIG

from dynconv.data import shapes
from dynconv.sweep import timing
from dynconv.sweep.timing import equal_time
from dynconv.training.launch import Launch

DATA = shapes.generate(0, 600, 100)
BASE = CONFIG.model_copy(update={"epochs": 4, "image_sizes": (16, 24)})
ON_CPU = Launch(device="cpu")


def narrower(**fields: Any) -> Any:
    return BASE.model_copy(update={"model": BASE.model.model_copy(update={"widths": (4, 4)}), **fields})


def test_takes_the_number_of_epochs_whose_time_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base: 2 epochs of 1 s per step and 2 of 2 s. The other: 5 of 0.4 s and 4 of 0.9 s; one more would be too long."""
    seconds = {16: [1.0, 0.4], 24: [2.0, 0.9]}
    monkeypatch.setattr(timing, "_side_by_side", lambda pair, size: seconds[size])

    assert equal_time(BASE, narrower(), DATA, ON_CPU) == (9, pytest.approx(5.6 / 6))
    assert equal_time(BASE, narrower(batch_size=300, micro_batch=300), DATA, ON_CPU)[0] == 28, "a third of the steps"
    seconds |= {16: [1.0, 50.0], 24: [2.0, 60.0]}
    assert equal_time(BASE, narrower(), DATA, ON_CPU) == (1, pytest.approx(10.0)), "one epoch at least"


def test_what_costs_the_same_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("timed")

    monkeypatch.setattr(timing, "_side_by_side", refuse)
    slower_learner = BASE.model_copy(update={"optim": BASE.optim.model_copy(update={"lr": 0.01})})
    averaged = BASE.model_copy(update={"optim": BASE.optim.model_copy(update={"ema": 0.9})})

    assert equal_time(BASE, slower_learner, DATA, ON_CPU) == (4, 1.0)
    with pytest.raises(AssertionError, match="timed"):
        equal_time(BASE, averaged, DATA, ON_CPU)
