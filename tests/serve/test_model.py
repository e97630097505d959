"""What is loaded to be served, and where the class means come from."""

from pathlib import Path

import pytest
import torch

from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data import shapes
from dynconv.errors import DynconvError
from dynconv.inference import class_routing
from dynconv.serve import model, samples


@pytest.fixture
def file(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # no data here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_weights(tmp_path / "tiny.safetensors", weights.state, weights.config, weights.classes, weights.data_name)
    return tmp_path / "tiny.safetensors"


def test_the_means_come_from_the_data_that_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shapes.generate(0, train_images=10, test_images=50)
    monkeypatch.setattr(shapes, "generate", lambda seed: made)
    said: list[str] = []

    served = model.load(file, "shapes", said.append)

    assert served.name == "tiny" and said == []
    expected_means = class_routing.measure(served.classifier, made.test)
    for found, expected in zip(served.class_routing, expected_means, strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(DynconvError, match="does not exist"):
        model.load(file, "nowhere", said.append)


def test_nothing_is_downloaded_for_the_means(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynconv.data.download.download", lambda *_: pytest.fail("a download"))
    said: list[str] = []

    assert model.load(file, None, said.append).class_routing == []
    assert said == ["no class means: the data set is not to hand; --data PATH says where it is"]


def test_the_means_of_the_packaged_weights_come_with_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("serve.model", "inference.predictor"):
        monkeypatch.setattr(f"dynconv.{module}.packaged_weights", lambda _: file)
    means = [torch.rand(10, 3), torch.rand(10, 3)]
    class_routing.save(means, class_routing.beside(file))
    said: list[str] = []

    served = model.load(Path("standard"), None, said.append)

    assert served.name == "standard" and said == []
    for found, expected in zip(served.class_routing, means, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_drawings_are_those_of_classes_that_we_can_draw() -> None:
    assert list(samples.draw(shapes.CLASSES)) == list(shapes.CLASSES)
    assert list(samples.draw(("cat", "dog", "ship"))) == ["cat", "ship"]
    assert samples.draw(("a", "b")) == {}
    assert samples.draw(("cat",))["cat"] == samples.draw(("cat",))["cat"] != samples.draw(("frog",))["frog"]
