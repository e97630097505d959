"""Apple's GPUs have no float64: what they would be asked to compute, recorded on a CPU."""

from typing import Any

import pytest
import torch
from tiny import CONFIG, MODEL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynconv.data import shapes
from dynconv.model.net import Net
from dynconv.training.config import OptimConfig
from dynconv.training.learner import Learner

DATA = shapes.generate(0, 120, 20).train


class NoFloat64(TorchDispatchMode):
    """Fails where an operator takes or returns numbers of 64 bits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, found)):
            assert not (isinstance(each, torch.Tensor) and each.dtype == torch.float64), f"{func} in float64"
        return found


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_neither_a_step_nor_an_evaluation_needs_float64(optimizer: str) -> None:
    optim = OptimConfig(name=optimizer, lr=0.05, ema=0.9)
    net = Net(MODEL.model_copy(update={"squeeze_excite": (4,), "router_hidden": (4,)}), 10)
    net.input.fit(DATA.images)  # in main memory, before the network is moved
    learner = Learner(net, optim, torch.device("cpu"), "fp32", class_weights=torch.ones(10))
    learner.begin()

    with NoFloat64():
        loss, _ = learner.step(DATA.images[:100], DATA.labels[:100], CONFIG.images_per_pass, 100)
        logits = learner.logits(DATA.images[:20])
        learner.logits(DATA.images[:20], views=True)
        routing = learner.routing(DATA.images[:20])

    assert loss > 0 and logits.isfinite().all() and len(routing) == len(MODEL.widths)


def test_float64_is_noticed() -> None:
    with pytest.raises(AssertionError, match="in float64"), NoFloat64():
        torch.ones(2, dtype=torch.float64)
