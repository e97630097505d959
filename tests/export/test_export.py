"""`dynconv export` from the command line, on generated images: what other runtimes make of the file, and sad paths."""

import errno
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from untrained import write_run

from dynconv.cli.main import main
from dynconv.data import Split, shapes
from dynconv.export import export
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig

pytestmark = pytest.mark.usefixtures("few_images")

OTHERS = {
    "sparsemax, router's hidden layer, stride, no norm, MLP": ModelConfig(
        widths=(8, 8), kernel_sizes=(5, 1), strides=(2, 1), pools=(2, 1), residual=(False, True), experts=3,
        gate="sparsemax", router_hidden=4, norm="none", head_hidden=8,
    ),
    "grey, whitened": ModelConfig(grey=True, widths=(8,), pools=(4,)),
    "sigmoid, one expert, no whitening, ReLU": ModelConfig(
        whiten=False, widths=(8,), pools=(4,), experts=1, gate="sigmoid", temperature=2.0, nonlinearity="relu",
        dropout=0.1,
    ),
}  # fmt: skip


def images_of(layout: str, count: int) -> np.ndarray:
    images = shapes.generate(0).test.images[:count].numpy()
    return images.transpose(0, 2, 3, 1) if layout == "nhwc" else images


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_onnxruntime_gives_the_networks_outputs_for_any_number_of_images(
    layout: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"

    assert main(["export", str(run), "--layout", layout, "--output", str(path)]) == 0

    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(path) and "for 1 and for 7 images" in said[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 33):
        logits, probabilities = session.run(None, {"images": images_of(layout, count)})
        expected = Predictor.load(run).logits(shapes.generate(0).test.images[:count])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(probabilities, expected.softmax(1), rtol=0, atol=1e-5)
    assert session.get_inputs()[0].shape[0] == "batch"
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(shapes.CLASSES)
    assert json.loads(about["checked"])["batches"] == [1, 7]
    assert json.loads(about["checked"])["largest_difference"] < 1e-5
    assert ("[N, 32, 32, 3]" if layout == "nhwc" else "[N, 3, 32, 32]") in about["input"]


def test_the_documented_example_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = shapes.generate(0).test.images[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels.repeat(3, 0).repeat(4, 1)).save(tmp_path / "photo.jpg")
    assert main(["export", str(run), "--output", str(tmp_path / "model.onnx")]) == 0
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)

    exec(page.split("```python\n")[1].split("```")[0], {})

    label, probability = capsys.readouterr().out.split()
    expected = Predictor.load(run).predict("photo.jpg")
    assert label == expected.label and float(probability) == pytest.approx(expected.probability, abs=1e-4)


def test_torch_loads_a_pt2(run: Path) -> None:
    assert main(["export", str(run), "--format", "pt2"]) == 0

    about = {"dynconv.json": ""}
    module = torch.export.load(run / "model.pt2", extra_files=about).module()
    for count in (1, 33):
        logits, probabilities = module(torch.from_numpy(images_of("nhwc", count)))
        expected = Predictor.load(run).logits(shapes.generate(0).test.images[:count])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(probabilities, expected.softmax(1), rtol=0, atol=1e-5)
    assert json.loads(about["dynconv.json"])["classes"] == list(shapes.CLASSES)


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_every_kind(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OTHERS[name])

    assert main(["export", str(run / "weights.safetensors"), "--output", str(tmp_path / "net.onnx")]) == 0


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_file_tells_nothing_of_the_machine(form: str, run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--format", form, "--output", str(tmp_path / f"net.{form}")]) == 0

    content = (tmp_path / f"net.{form}").read_bytes()
    for place in (run, Path(export.__file__).parent, Path(torch.__file__).parent):
        assert str(place).encode() not in content


def test_int8_says_what_it_costs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--int8", "--layout", "nchw"]) == 0

    path, test = run / "model-int8.onnx", shapes.generate(0).test
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": test.images.numpy()})[0]
    about = json.loads(session.get_modelmeta().custom_metadata_map["int8"])
    right = Predictor.load(run).logits(test.images).argmax(1) == test.labels
    assert about["accuracy_int8"] == pytest.approx((logits.argmax(1) == test.labels.numpy()).mean())
    assert about["accuracy_float32"] == pytest.approx(right.double().mean().item())
    assert (about["calibration_images"], about["test_images"]) == (512, 120)
    assert (
        f"{about['accuracy_float32']:.2%} in float32, {about['accuracy_int8']:.2%} in int8" in capsys.readouterr().out
    )
    kernels = [list(each.dims) for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert [16, 24, 3, 3] in kernels and [16, 8, 3, 3] in kernels


def test_calibration_sees_all_classes_where_the_images_are_sorted_by_class(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = shapes.generate(0)
    order = dataset.train.labels.argsort()
    train = Split(dataset.train.images[order], dataset.train.labels[order])
    label_of = dict(zip((image.numpy().tobytes() for image in train.images), train.labels.tolist(), strict=True))
    seen: set[int] = set()

    def quantize(content: bytes, images: torch.Tensor) -> bytes:
        seen.update(label_of[image.numpy().tobytes()] for image in images)
        return content

    monkeypatch.setattr(export, "CALIBRATION", 40)
    monkeypatch.setattr(export.onnx_file, "quantize", quantize)
    predictor = Predictor.load(run, device="cpu")
    export.export(predictor, replace(dataset, train=train), tmp_path / "net.onnx", "onnx", "nchw", int8=True)

    assert seen == set(range(10))


def test_a_file_that_computes_something_else_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"an earlier file")
    forward = export.Exported.forward
    monkeypatch.setattr(export.Exported, "forward", lambda self, images: forward(self, images // 2))

    assert main(["export", str(run), "--format", "pt2", "--output", str(path)]) == 2

    said = capsys.readouterr().err
    assert "outputs are not the network's" in said and len(said.splitlines()) == 1
    assert path.read_bytes() == b"an earlier file" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "tflite"], "format: must be"),
        (["--format", "pt2", "--int8"], "int8: needs --format onnx"),
        (["--layout", "hwc"], "layout: must be"),
        (["--output", "{folder}"], "is a folder; name a file in it: --output {folder}/model.onnx"),
        (["--output", "{folder}/weights.safetensors"], "must end in .onnx"),
        (["--output", "{folder}/nowhere/net.onnx"], "there is no folder {folder}/nowhere"),
        (["--data", "{folder}"], "{folder}"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *(word.format(folder=tmp_path) for word in words)]) == 2

    captured = capsys.readouterr()
    assert said.format(folder=tmp_path) in captured.err and len(captured.err.splitlines()) == 1
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_what_is_no_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "--format", "pt2"]) == 2
    assert "nowhere: does not exist" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)

    assert main(["export", str(run), "--format", "pt2", "--output", str(tmp_path / "net.pt2")]) == 2

    assert "net.pt2: cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_any_work(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("dynconv.inference.predictor.Predictor.load", lambda *_, **__: pytest.fail("loaded"))

    assert main(["export", str(run)]) == 2

    said = capsys.readouterr().err
    assert "pip install 'dynconv[onnx]'" in said and len(said.splitlines()) == 1


def test_too_few_images_to_check_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shapes, "generate", partial(shapes.generate.__wrapped__, test_images=6))

    assert main(["export", str(run), "--format", "pt2", "--output", str(tmp_path / "net.pt2")]) == 2

    assert "needs 7 test images, but there are 6" in capsys.readouterr().err


def test_bench_compares_the_runtimes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda net, **_: net)  # it takes half a minute
    words = ["bench", "infer", "--model", str(run), "--rounds", "1", "--batch", "8", "--allow-uncommitted"]

    assert main([*words, "--output", str(tmp_path / "infer.json")]) == 0

    rates = json.loads((tmp_path / "infer.json").read_text())["images_per_second"]
    assert set(rates) == {"torch eager", "torch compiled", "onnxruntime float32", "onnxruntime int8"}
    assert all(by_size["1"] > 0 and by_size["8"] > 0 for by_size in rates.values())
    assert capsys.readouterr().out.count("images/s") == 8
