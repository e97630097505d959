import math
from pathlib import Path

import pytest
import torch

from dynconv.artifacts.weights import Weights
from dynconv.data import Split
from dynconv.errors import DynconvError
from dynconv.inference import class_routing, explain
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net

MODEL = ModelConfig(widths=(6, 8), pools=(2,), experts=3, whiten=False, norm="none", nonlinearity="relu")


def network(classes: int) -> Predictor:
    torch.manual_seed(0)
    net = Net(MODEL, classes)
    net.input.fit(torch.rand(20, 3, 32, 32))
    names = tuple(map(str, range(classes)))
    weights = Weights(net.state_dict(), MODEL, names, "made up")
    return Predictor(net, weights, torch.device("cpu"), "fp32")


@pytest.fixture
def split() -> Split:
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Split(images, torch.arange(20) % 3)  # none of the last class


def test_the_means_are_those_over_the_images_of_a_class(split: Split) -> None:
    predictor = network(4)

    means = class_routing.measure(predictor, split)

    for mean_CK, a_NK in zip(means, explain.routing_weights(predictor, split.images), strict=True):
        torch.testing.assert_close(mean_CK[1], a_NK[split.labels == 1].mean(0))
        assert mean_CK[3].isnan().all()


def test_they_are_kept_beside_the_weights(split: Split, tmp_path: Path) -> None:
    predictor, file = network(4), class_routing.beside(tmp_path / "standard.safetensors")
    means = class_routing.measure(predictor, split)

    class_routing.save(means, file)

    assert file.name == "standard.routing.json" and not math.isnan(float(means[0][0, 0]))
    for kept, mean_CK in zip(class_routing.load(predictor, file), means, strict=True):
        torch.testing.assert_close(kept, mean_CK, atol=1e-5, rtol=0, equal_nan=True)


def test_those_of_another_network_are_refused(split: Split, tmp_path: Path) -> None:
    file = tmp_path / "a.routing.json"
    class_routing.save(class_routing.measure(network(3), split), file)

    with pytest.raises(DynconvError, match="belongs to another network"):
        class_routing.load(network(4), file)
    file.write_text('[[["a"]]]')
    with pytest.raises(DynconvError, match="missing or damaged"):
        class_routing.load(network(4), file)
