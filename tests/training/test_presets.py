"""The presets train: a few steps of each, with its own network, optimizer and augmentation."""

import pytest
import torch

from dynconv.data import shapes
from dynconv.data.batches import training_batches
from dynconv.model.net import Net
from dynconv.training.learner import Learner
from dynconv.training.presets import PRESETS

SPLIT = shapes.generate(0, 20, 10).train


LARGE = ("best", "best-gpu")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.large if name in LARGE else ()) for name in PRESETS]
)
def test_some_steps_of_a_preset_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    config = PRESETS[name]()
    net = Net(config.model, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.input.fit(SPLIT.images)
    trained = Learner(net, config.optim, torch.device("cpu"), "fp32")
    trained.begin()

    losses = []
    for epoch in range(6):
        for images, target in training_batches(
            SPLIT, 10, config.augment, len(SPLIT.labels), config.image_size(0), epoch, 0
        ):
            losses.append(trained.step(images, target, len(images))[0] / len(images))

    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())
    assert min(losses[3:]) < losses[0]
