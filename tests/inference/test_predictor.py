from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dynconv.artifacts.environment import environment
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import Weights, save_weights
from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.machine import RequestedPrecision
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.model.tta import EVAL_BATCH, mean_over_views, unsure

MODEL = ModelConfig(widths=(8, 8), pools=(4, 2), experts=2)
CLASSES = ("cat", "dog", "owl")


def weights_of(net: Net, **changes: Any) -> Weights:
    """The network's weights, with some tensors replaced."""
    return Weights(net.state_dict() | changes, MODEL, CLASSES, "shapes", "made up")


def write_run(path: Path) -> RunDir:
    config = {"seed": 0, "epochs": 1, "image_sizes": (32,), "tta": False, "precision": "fp32", "model": MODEL}
    return RunDir.create(path, config, environment("shapes"))


@pytest.fixture(autouse=True)
def computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor: `auto` is float32."""
    monkeypatch.setattr("dynconv.machine.instruction_sets", set)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net(MODEL, len(CLASSES))
    net.input.fit(torch.rand(50, 3, 32, 32))
    for block in net.backbone:
        torch.nn.init.normal_(block.norm.running_mean)
    return net.eval()


@pytest.fixture
def weights(tmp_path: Path, net: Net) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, weights_of(net))
    return path


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_logits_are_those_of_the_network_on_the_same_images(weights: Path, net: Net, images: torch.Tensor) -> None:
    predictor = Predictor.load(weights)
    x = (images.float() / 255).contiguous(memory_format=torch.channels_last)

    with torch.no_grad():
        torch.testing.assert_close(predictor.logits(images), net(x), rtol=0, atol=1e-6)
    assert predictor.classes == CLASSES and predictor.data_name == "shapes"
    assert predictor.model == MODEL and predictor.provenance == "made up" and predictor.run is None


def test_test_time_augmentation_averages_over_views_of_unsure_images(
    tmp_path: Path, net: Net, images: torch.Tensor
) -> None:
    with torch.no_grad():
        net.head.linear.weight *= 0.1
        net.head.linear.bias.zero_()
        save_weights(tmp_path / "unsure.safetensors", weights_of(net))
        predictor = Predictor.load(tmp_path / "unsure.safetensors")
        x = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        assert unsure(net(x)).all()

        torch.testing.assert_close(predictor.logits(images, tta=True), mean_over_views(net, x), rtol=0, atol=1e-6)
        net.head.linear.weight *= 1000
        save_weights(tmp_path / "sure.safetensors", weights_of(net))
    predictor = Predictor.load(tmp_path / "sure.safetensors")
    assert torch.equal(predictor.logits(images, tta=True), predictor.logits(images))


def test_probabilities_are_the_softmax_and_need_no_gradient(weights: Path, images: torch.Tensor) -> None:
    predictor = Predictor.load(weights)

    probabilities = predictor.probabilities(images)

    torch.testing.assert_close(probabilities, predictor.logits(images).softmax(1))
    assert not probabilities.requires_grad


def test_what_else_is_in_the_call_does_not_matter(weights: Path, images: torch.Tensor) -> None:
    """An image's logits do not depend on its neighbours: batch norm uses the running statistics."""
    predictor = Predictor.load(weights)
    many = images.repeat(EVAL_BATCH // len(images) + 2, 1, 1, 1)

    alone, among = predictor.logits(images[:1]), predictor.logits(many)

    torch.testing.assert_close(among[:1], alone, rtol=0, atol=1e-5)
    assert len(among) == len(many)


def test_loads_a_run_directory(tmp_path: Path, net: Net, weights: Path, images: torch.Tensor) -> None:
    run = write_run(tmp_path / "run")
    save_weights(run.weights, weights_of(net))

    assert torch.equal(Predictor.load(run.path).logits(images), Predictor.load(weights).logits(images))


@pytest.mark.parametrize(("configured", "computed"), [("auto", "bf16"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_a_weights_file_is_computed_in_its_precision(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    net: Net,
    configured: RequestedPrecision,
    computed: str,
) -> None:
    """On a processor that multiplies bf16, too."""
    monkeypatch.setattr("dynconv.machine.instruction_sets", lambda: {"avx512_bf16"})
    save_weights(tmp_path / "w.safetensors", replace(weights_of(net), precision=configured))

    assert Predictor.load(tmp_path / "w.safetensors", "cpu").precision == computed


def test_a_run_without_weights_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")

    with pytest.raises(DynconvError, match="no weights yet"):
        Predictor.load(run.path)


@pytest.mark.parametrize("name", ["missing", "folder", "text.safetensors", "n" * 300])
def test_what_is_neither_run_nor_weights_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")

    with pytest.raises(DynconvError, match=name) as caught:
        Predictor.load(tmp_path / name)
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
        Predictor.load(weights).logits(bad)


@pytest.mark.parametrize(
    ("name", "bad", "said"),
    [
        ("head.linear.bias", torch.tensor([0.0, torch.nan, 0.0]), "head.linear.bias holds NaN or infinity"),
        ("input.mean", torch.tensor([0.0, torch.inf, 0.0]), "input.mean holds NaN or infinity"),
        ("head.linear.bias", torch.tensor([0.0, 1e300, 0.0], dtype=torch.float64), "head.linear.bias holds NaN or inf"),
        ("head.linear.bias", torch.tensor([0, 1, 2]), "head.linear.bias holds int64 numbers"),
        ("head.linear.bias", torch.zeros(3, dtype=torch.complex64), "head.linear.bias holds complex64 numbers"),
        ("head.linear.bias", torch.zeros(4), "these weights do not fit"),
        ("one.too.many", torch.zeros(4), "these weights do not fit"),
        ("input.std", torch.zeros(3), "the input statistics were never set"),
    ],
)
def test_weights_that_cannot_be_computed_with_are_refused(
    name: str, bad: torch.Tensor, said: str, tmp_path: Path, net: Net
) -> None:
    try:
        save_weights(tmp_path / "w.safetensors", weights_of(net, **{name: bad}))
    except KeyError as error:
        pytest.skip(f"safetensors before 0.7 cannot write {error}; not tested: weights of this type")

    with pytest.raises(DynconvError, match=rf"w\.safetensors: {said}"):
        Predictor.load(tmp_path / "w.safetensors")


def test_an_output_that_overflows_is_never_a_prediction(
    tmp_path: Path, net: Net, images: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = torch.full_like(net.head.linear.weight, torch.finfo(torch.float32).max)
    save_weights(tmp_path / "w.safetensors", weights_of(net, **{"head.linear.weight": largest}))
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")

    assert main(["predict", str(tmp_path / "a.png"), "--model", str(tmp_path / "w.safetensors"), "--json"]) == 2

    captured = capsys.readouterr()
    assert captured.out == "" and "not finite" in captured.err and len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "cat", "dog"], "class name 'cat' occurs twice"),
        (["cat", "", "dog"], "class name 1 is blank"),
        (["cat", "\x1b[31mred", "dog"], r"class name '\\x1b\[31mred' cannot be shown"),
        (["cat", "two\nlines", "dog"], "class name .* cannot be shown"),
        (["cat", "\udcff", "dog"], "class name .* cannot be shown"),
        (["cat", None, "dog"], "class name 1 is a NoneType"),
        (["cat", {"a": 1}, "dog"], "class name 1 is a dict"),
        ("cat", "the class names are a str"),
    ],
)
def test_class_names_are_different_printable_strings(classes: Any, said: str, tmp_path: Path, net: Net) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(file, replace(weights_of(net), classes=classes))

    with pytest.raises(DynconvError, match=rf"w\.safetensors: {said}") as caught:
        Predictor.load(file)
    assert str(caught.value).isprintable()


def test_weights_that_describe_an_impossible_network_are_refused(tmp_path: Path, net: Net) -> None:
    changes: dict[str, dict[str, Any]] = {
        "these weights do not fit": {"residual": (True,) * 2},
        "these weights do not fit the": {"experts": (4096,), "widths": (65_536,) * 2, "kernel_sizes": (255,)},
        r"describes a network that .*model\.experts\.0: .* 4096": {"experts": (300_000,)},
        r"describes a network that .*model\.widths: .* 1000 items": {"widths": (8,) * 300_000, "pools": (1,)},
        r"describes a network that .*model\.kernel_sizes\.0: .* 255": {"kernel_sizes": (2**63 + 1,)},
        r"describes a network that .*model\.strides\.0: ": {"strides": (2**62,)},
        r"describes a network that .*model\.pools\.0: ": {"pools": (99_999,)},
        r"describes a network that .*model\.head_hidden: ": {"head_hidden": 2**70},
        r"this network cannot take images of 32x32 pixels \(block 2 ": {"pools": (16, 16)},
    }
    for said, impossible in changes.items():
        model = MODEL.model_copy(update=impossible)
        save_weights(tmp_path / "w.safetensors", replace(weights_of(net), model=model))

        with pytest.raises(DynconvError, match=rf"w\.safetensors: {said}"):
            Predictor.load(tmp_path / "w.safetensors")
