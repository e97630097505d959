"""What is loaded to be served, and where the class means come from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data import shapes
from dynconv.errors import DynconvError
from dynconv.inference import class_routing
from dynconv.serve import model


@pytest.fixture
def file(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)  # no data here
    caplog.set_level("INFO", "dynconv")
    monkeypatch.setattr("dynconv.data.places.cache_folder", lambda: tmp_path / "cache")
    save_weights(tmp_path / "tiny.safetensors", weights)
    return tmp_path / "tiny.safetensors"


def test_the_means_come_from_the_data_that_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = shapes.generate(0, train_images=10, test_images=50)
    monkeypatch.setattr(shapes, "generate", lambda seed: made)

    served = model.load(file, "shapes")

    assert served.name == "tiny" and not caplog.messages
    expected_means = class_routing.measure(served.predictor, made.test)
    for found, expected in zip(served.class_routing, expected_means, strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(DynconvError, match="does not exist"):
        model.load(file, "nowhere")


def test_nothing_is_downloaded_for_the_means(
    file: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dynconv.data.download.download", lambda *_: pytest.fail("a download"))
    save_weights(file, replace(weights, data_name="cifar10"))

    assert model.load(file, None).class_routing == []
    assert caplog.messages == ["no class means: the data set was not found; give its location with --data PATH"]


def test_the_means_of_the_packaged_weights_come_with_them(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("serve.model", "artifacts.found_weights"):
        monkeypatch.setattr(f"dynconv.{module}.packaged_weights", lambda _: file)
    means = [torch.rand(10, 3), torch.rand(10, 3)]
    class_routing.save(means, class_routing.beside(file))

    served = model.load(Path("standard"), None)

    assert served.name == "standard" and not caplog.messages
    for found, expected in zip(served.class_routing, means, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
