from pathlib import Path

import pytest
import torch

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import save_weights
from dynconv.config import ModelConfig, RunConfig
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Classifier
from dynconv.model.net import Net, build_net
from dynconv.model.tta import EVAL_BATCH, tta_logits

CONFIG = RunConfig(model=ModelConfig(widths=(8, 8), pools=(4, 2), experts=2), precision="fp32")
CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = build_net(CONFIG.model, len(CLASSES))
    net.input.fit(torch.rand(50, 3, 32, 32))
    for block in net.backbone:
        torch.nn.init.normal_(block.norm.running_mean)
    return net.eval()


@pytest.fixture
def weights(tmp_path: Path, net: Net) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, net.state_dict(), CONFIG, CLASSES, "shapes")
    return path


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_logits_are_those_of_the_network_on_the_same_images(weights: Path, net: Net, images: torch.Tensor) -> None:
    classifier = Classifier.load(weights)
    x = (images.float() / 255).contiguous(memory_format=torch.channels_last)

    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(images), net(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(classifier.logits(images, tta=True), tta_logits(net, x), rtol=0, atol=1e-6)
    assert classifier.classes == CLASSES and classifier.data_name == "shapes" and classifier.config == CONFIG


def test_probabilities_are_the_softmax_and_need_no_gradient(weights: Path, images: torch.Tensor) -> None:
    classifier = Classifier.load(weights)

    probabilities = classifier.probabilities(images)

    torch.testing.assert_close(probabilities, classifier.logits(images).softmax(1))
    assert not probabilities.requires_grad


def test_what_else_is_in_the_call_does_not_matter(weights: Path, images: torch.Tensor) -> None:
    """An image's logits do not depend on its neighbours: batch norm uses the running statistics."""
    classifier = Classifier.load(weights)
    many = images.repeat(EVAL_BATCH // len(images) + 2, 1, 1, 1)

    alone, among = classifier.logits(images[:1]), classifier.logits(many)

    torch.testing.assert_close(among[:1], alone, rtol=0, atol=1e-5)
    assert len(among) == len(many)


def test_loads_a_run_directory(tmp_path: Path, net: Net, weights: Path, images: torch.Tensor) -> None:
    run = RunDir.create(CONFIG.model_copy(update={"run": tmp_path / "run"}), "shapes")
    save_weights(run.weights, net.state_dict(), CONFIG, CLASSES, "shapes")

    assert torch.equal(Classifier.load(run.path).logits(images), Classifier.load(weights).logits(images))


def test_a_run_without_weights_says_so(tmp_path: Path) -> None:
    run = RunDir.create(CONFIG.model_copy(update={"run": tmp_path / "run"}), "shapes")

    with pytest.raises(DynconvError, match="no weights yet"):
        Classifier.load(run.path)


@pytest.mark.parametrize("name", ["missing", "folder", "text.safetensors"])
def test_what_is_neither_run_nor_weights_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")

    with pytest.raises(DynconvError, match=name) as caught:
        Classifier.load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (torch.zeros(1, 3, 8, 8), r"float32 \[1, 3, 8, 8\]"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), r"uint8 \[1, 8, 8, 3\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"uint8 \[3, 8, 8\]"),
    ],
)
def test_images_of_another_form_are_refused(weights: Path, bad: torch.Tensor, found: str) -> None:
    with pytest.raises(ValueError, match=rf"need uint8 \[N, 3, H, W\], not {found}"):
        Classifier.load(weights).logits(bad)


def test_weights_that_name_a_network_that_cannot_be_are_refused(tmp_path: Path, net: Net) -> None:
    impossible = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"residual": (True,)})})
    save_weights(tmp_path / "w.safetensors", net.state_dict(), impossible, CLASSES, "shapes")

    with pytest.raises(DynconvError, match=r"w\.safetensors: these weights do not fit"):
        Classifier.load(tmp_path / "w.safetensors")
