"""`dynconv bench`, small: that it measures, writes, continues and says what is wrong. Its figures are not judged."""

import json
from pathlib import Path
from typing import get_args

import pytest

from dynconv.bench.shapes import Shape, ShapeSet, shapes
from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.layer.ops import winograd
from dynconv.training.presets import PRESETS

SMALL = [
    "bench",
    "layer",
    "--shapes",
    "quick",
    "--experts",
    "2",
    "--dtypes",
    "float32",
    "--rounds",
    "1",
    "--batch",
    "2",
    "--allow-uncommitted",
]
MODELS = {name: preset().model for name, preset in PRESETS.items()}


@pytest.mark.large
def test_layer_is_measured_once_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "layer.json"

    assert main([*SMALL, "--output", str(output)]) == 0

    found = json.loads(output.read_text())
    assert len(found["cells"]) == len(shapes("quick", MODELS))
    methods = found["cells"][0]["methods"]
    assert {"static", "loop", "grouped", "kernel", "input", "output", "unfold"} <= set(methods)
    assert all(figures[f"{mode}_ms"] > 0 for figures in methods.values() for mode in ("inference", "training"))
    assert all("git_commit" in cell for cell in found["cells"])
    assert (tmp_path / "layer.png").stat().st_size > 10_000
    assert "auto is within 5 % of the best algorithm in" in capsys.readouterr().out

    assert main([*SMALL, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["cells"] == found["cells"]


def test_a_file_that_is_no_measurement_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "layer.json"
    output.write_text("{}")

    assert main([*SMALL, "--output", str(output)]) == 2

    assert "is not a measurement of the layer" in capsys.readouterr().err
    assert output.read_text() == "{}"


@pytest.mark.parametrize("what", ["layer", "step", "predict", "infer", "serve"])
def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"dynconv.bench.run.{what}.measure{'' if what == 'layer' else f'_{what}'}", pytest.fail)

    assert main(["bench", what, "--output", str(tmp_path / "nowhere" / "figures.json")]) == 2

    said = capsys.readouterr().err
    assert "figures.json: cannot be written (No such file or directory); choose another --output" in said


def test_step_compares_the_algorithms_and_numbers_of_experts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "step.json"
    words = ["bench", "step", "--preset", "quick", "--batch", "4", "--rounds", "1", "--experts", "1", "3"]
    words += ["--allow-uncommitted"]

    assert main([*words, "--output", str(output)]) == 0

    assert "git_commit" in json.loads(output.read_text())
    measured = json.loads(output.read_text())["types"]
    assert set(measured) == {"float32", "bfloat16"}
    for dtype, rates in measured.items():
        assert set(rates["algorithms"]) >= {"auto", "kernel", "input"}
        assert ("winograd" in rates["algorithms"]) == (dtype == "float32" and winograd.library.available())
        assert set(rates["experts"]) == {"1", "3"}
        assert sum(rates["parts"].values()) == pytest.approx(1)
        named = {"augmentation", "input transform", "routers", "optimizer", "loss", "head"}
        assert named <= set(rates["parts"]) and rates["parts"].get("other", 0) < 0.1
        assert rates["experts_rate"] > 0 and rates["peak_rate"] > 0
    printed = capsys.readouterr().out
    assert "times as long as auto" in printed and "times as long as K = 1" in printed


@pytest.mark.parametrize("what", ["layer", "step", "predict", "infer", "serve"])
def test_uncommitted_changes_are_refused_before_anything_is_measured(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*written: Path) -> None:
        raise DynconvError(f"uncommitted changes, but for {written[0].name}")

    monkeypatch.setattr(f"dynconv.bench.run.{what}.measure{'' if what == 'layer' else f'_{what}'}", pytest.fail)
    monkeypatch.setattr("dynconv.bench.run.require_committed", refuse)

    assert main(["bench", what, "--output", str(tmp_path / "figures.json")]) == 2

    assert "uncommitted changes, but for figures.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["nothing"], ["layer", "--experts", "0"], ["layer", "--shapes", "vgg"]])
def test_wrong_words_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert capsys.readouterr().err.startswith("dynconv: error: ")


def test_the_shapes_are_those_of_the_networks() -> None:
    assert shapes("quick", MODELS)[0] == Shape(24, 32, 31, 3, 1)
    assert Shape(256, 512, 14, 3, 2) in shapes("resnet18-56", MODELS)
    assert str(shapes("mobilenet", MODELS)[1]) == "96->96 3x3/2 in 96 groups @112"
    assert str(shapes("resnext", MODELS)[1]) == "256->256 3x3/2 in 32 groups @56"
    assert all(shapes(name, MODELS) for name in get_args(ShapeSet))
