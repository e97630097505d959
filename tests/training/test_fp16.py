"""fp16 with its loss scaled, as GPUs without bf16 train; here on a CPU, which computes it slowly but alike."""

from typing import Any

import pytest
import torch
from tiny import CONFIG, MODEL
from torch import Tensor

from dynconv.cli.main import main
from dynconv.data import Split, shapes
from dynconv.model.net import Net
from dynconv.training.learner import Learner

SPLIT = shapes.generate(0, 400, 10).train
DATA = Split(SPLIT.images[:, :, ::2, ::2].contiguous(), SPLIT.labels)
"""Of 16 pixels, since a CPU takes long to multiply fp16."""


def learner(precision: Any, scale: float = 2.0**16) -> Learner:
    torch.manual_seed(0)
    net = Net(MODEL, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.input.fit(DATA.images)
    made = Learner(net, CONFIG.optim, torch.device("cpu"), precision)
    if precision == "fp16":
        made._scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    made.begin()
    return made


def steps(trained: Learner, numbers: range) -> list[float]:
    """The losses of some steps, of two micro-batches each."""
    losses = []
    for number in numbers:
        part = slice(100 * (number % 4), 100 * (number % 4) + 100)
        losses.append(trained.step(DATA.images[part], DATA.labels[part], 50)[0] / 100)
    return losses


def weights(of: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in of.net.parameters()]


def test_it_follows_float32() -> None:
    assert steps(learner("fp16"), range(8)) == pytest.approx(steps(learner("fp32"), range(8)), rel=0.02)


def test_a_step_whose_gradients_are_too_large_is_left_out_and_the_scale_halved() -> None:
    trained = learner("fp16", scale=2.0**26)
    before = weights(trained)

    steps(trained, range(1))

    assert all(torch.equal(old, new) for old, new in zip(before, weights(trained), strict=True))
    assert trained.state_dict()["scaler"]["scale"] == 2.0**25
    steps(trained, range(1, 12))
    assert trained.state_dict()["scaler"]["scale"] < 2.0**23
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(trained), strict=True))


def test_it_goes_on_from_its_state_as_if_nothing_had_happened() -> None:
    whole, first = learner("fp16", scale=2.0**24), learner("fp16", scale=2.0**24)
    losses = steps(whole, range(12))
    assert steps(first, range(6)) == losses[:6]

    again = learner("fp16")
    again.load_state_dict(first.state_dict())

    assert steps(again, range(6, 12)) == losses[6:]
    for wrong in ({"scale": float("inf")}, {"scale": "1"}, [1.0]):
        with pytest.raises(ValueError, match="the scale of the loss is no"):
            again.load_state_dict({**first.state_dict(), "scaler": wrong})


def test_it_goes_on_from_a_state_of_another_precision() -> None:
    before = learner("fp32")
    steps(before, range(4))

    again = learner("fp16")
    again.load_state_dict(before.state_dict())

    assert steps(again, range(4, 8)) == pytest.approx(steps(before, range(4, 8)), rel=0.02)


def test_on_a_cpu_it_is_refused_in_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        "quick",
        "--data",
        "shapes",
        "--precision",
        "fp16",
        "--device",
        "cpu",
        "--run",
        str(tmp_path / "run"),
    ]

    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "dynconv: error: precision: fp16 is for NVIDIA GPUs, and this trains on cpu; use auto"
    assert not (tmp_path / "run").exists()
