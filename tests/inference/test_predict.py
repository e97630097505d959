"""From pictures to classes, through the command line and from Python, with a tiny trained network."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.artifacts.found_weights import PACKAGED, packaged_weights
from dynconv.artifacts.weights import Weights, load_weights, save_weights
from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.data.frame import Frame
from dynconv.errors import DynconvError
from dynconv.inference import evaluate, files, predict, trained_data
from dynconv.inference.predictor import Predictor, to_pixels
from dynconv.model.config import ModelConfig
from dynconv.training.config import TrainConfig
from dynconv.training.launch import Launch, start
from dynconv.training.progress import Progress


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "generate", cache(partial(shapes.generate, train_images=2000, test_images=1250)))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "one"
    config = TrainConfig(model=ModelConfig(widths=(8, 8), pools=(4, 2)), image_sizes=(16,), epochs=1)
    with Progress() as progress:
        start(config, Launch(data="shapes", run=run), progress)
    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 1,000 test images as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(shapes.generate(0).test.images[:1000]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:04}.png")
    return folder


def test_a_thousand_files_get_the_logits_that_evaluate_gives(run: Path, pictures: Path) -> None:
    predictor = Predictor.load(run)
    with np.load(run / "predictions.npz") as arrays:
        recorded = arrays["probabilities"][:1000]

    read = torch.stack([to_pixels(path, Frame()) for path in sorted(pictures.iterdir())])
    found = list(predict.predict(predictor, files.find([str(pictures)]), top=10, tta=True))

    assert torch.equal(read, shapes.generate(0).test.images[:1000])
    assert torch.equal(predictor.logits(read), predictor.logits(shapes.generate(0).test.images)[:1000])
    for outcome, row in zip(found, recorded, strict=True):
        assert outcome.prediction
        assert dict(outcome.prediction.top) == {name: float(p) for name, p in zip(shapes.CLASSES, row, strict=True)}


def test_json_has_a_line_for_each_image_and_goes_on_past_bad_ones(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truncated.png").write_bytes((pictures / "0001.png").read_bytes()[:200])
    bad = [str(tmp_path / "truncated.png"), "nowhere.png", "x" * 300 + ".png"]
    images = [str(pictures / "0000.png"), *bad, str(pictures / "0002.png")]

    assert main(["predict", *images, "--model", str(run), "--json", "--top", "2"]) == 1

    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["image"] for line in lines] == images
    assert "damaged" in lines[1]["error"] and "cannot be read (No such file" in lines[2]["error"]
    assert "cannot be read (File name too long)" in lines[3]["error"]
    for line in (lines[0], lines[4]):
        assert line["class"] == line["top"][0]["class"] and len(line["top"]) == 2
        assert line["probability"] >= line["top"][1]["probability"]
    assert "3 of 5 images could not be read" in said.err and "Traceback" not in said.err


def test_csv_and_table(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(pictures / "0000.png"), str(pictures / "0001.png"), "--model", str(run)]

    assert main([*words, "--csv", "--top", "1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()

    assert [Path(row["image"]).name for row in rows] == ["0000.png", "0001.png"]
    assert 0 < float(rows[0]["probability1"]) <= 1
    for row, line in zip(rows, table, strict=True):
        assert line.startswith(row["image"]) and line.split()[1] == row["class1"] and line.count("%") == 3


def test_an_image_on_standard_input(run: Path, pictures: Path) -> None:
    command = [sys.executable, "-m", "dynconv", "predict", "-", "--model", str(run), "--json"]

    done = subprocess.run(command, input=(pictures / "0000.png").read_bytes(), capture_output=True, check=True)
    bad = subprocess.run(command, input=b"no image", capture_output=True, check=False)

    assert json.loads(done.stdout)["image"] == "-"
    assert bad.returncode == 1 and b"standard input: damaged, or not an image" in bad.stderr


ODD_NAMES = (b"not UTF-8 \xff.png", "猫.png".encode(), b"red \x1b[31m.png", b"two\nlines.png", b"x.png")


@pytest.fixture
def oddly_named(pictures: Path, tmp_path: Path) -> Path:
    """A folder of images whose names terminals, or outputs in ASCII, cannot print."""
    for name in ODD_NAMES:
        try:
            (tmp_path / os.fsdecode(name)).write_bytes((pictures / "0000.png").read_bytes())
        except OSError:  # on macOS names are UTF-8
            pytest.skip("this file system takes UTF-8 names only; not tested: images with other names")
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
@pytest.mark.parametrize("form", ["table", "--csv", "--json"])
def test_every_image_is_answered_whatever_its_name_and_the_encoding_of_the_output(
    form: str, encoding: str, oddly_named: Path, run: Path
) -> None:
    words = [sys.executable, "-m", "dynconv", "predict", str(oddly_named), "--model", str(run), "--top", "1"]
    (oddly_named / os.fsdecode(b"damaged \xff.png")).write_bytes(b"no image")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}

    done = subprocess.run(
        [*words, *([] if form == "table" else [form])], capture_output=True, check=False, env=environment
    )

    said = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in said, said
    assert "1 of 6 images could not be read" in said and "damaged \\xff.png: damaged, or not an image" in said
    printed = done.stdout.decode(encoding.partition(":")[0])
    if form == "--json":
        lines = [json.loads(line) for line in printed.splitlines()]
        names = [Path(line["image"]).name for line in lines if "class" in line]
        assert sorted(os.fsencode(name) for name in names) == sorted(ODD_NAMES)
    elif form == "--csv":
        assert len(list(csv.DictReader(io.StringIO(printed)))) == len(ODD_NAMES)
    else:
        assert len(printed.splitlines()) == len(ODD_NAMES)
        assert all(line.isprintable() for line in printed.splitlines())
        assert r"red \x1b[31m.png" in printed and r"two\nlines.png" in printed


def test_which_classes_are_known_is_said(pictures: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(pictures / "0000.png")
    known = (
        "10 classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck; "
        "every image is assigned one of these"
    )

    assert main(["predict", image]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [known] and len(said.out.splitlines()) == 1
    for words in (["--json"], ["--csv"]):
        assert main(["predict", image, *words]) == 0
        assert capsys.readouterr().err == ""
    assert main(["predict", image, "--model", str(run)]) == 0
    assert capsys.readouterr().err.startswith(f"{len(shapes.CLASSES)} classes: {', '.join(shapes.CLASSES)}; every")


def test_images_of_which_it_is_not_sure_enough(
    pictures: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above each image's own probability it is unsure, below it is not."""
    image = str(pictures / "0000.png")
    words = ["predict", image, "--model", str(run), "--json"]
    assert main(words) == 0
    known = json.loads(capsys.readouterr().out)

    for least, answer in ((known["probability"] * 0.99, known["class"]), (1.0, None)):
        assert main([*words, "--min-probability", str(least)]) == 0
        assert json.loads(capsys.readouterr().out) == {**known, "class": answer}
    words[-1:] = ["--min-probability", "1", "--copy-to", str(tmp_path / "sorted")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "unsure: " in said.out and "below 100% an image is reported as unsure" in said.err
    assert [path.parent.name for path in (tmp_path / "sorted").rglob("*.png")] == ["unsure"]


def test_copies_go_under_their_class_and_overwrite_nothing(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(pictures / "0000.png"), "--model", str(run), "--copy-to", str(tmp_path), "--json"]

    assert main(words) == 0
    label = json.loads(capsys.readouterr().out)["class"]
    assert main(words) == 0

    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")} == {
        Path(label, "0000.png"),
        Path(label, "0000-2.png"),
    }


def test_a_copy_that_cannot_be_written_leaves_nothing_behind(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)

    assert main(["predict", str(pictures / "0000.png"), "--model", str(run), "--copy-to", str(tmp_path)]) == 2

    assert "0000.png: cannot be written (No space left on device)" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_class_name_is_no_path(pictures: Path, tmp_path: Path) -> None:
    picture = str(pictures / "0000.png")

    assert files.copy_by_class(picture, "../../etc", tmp_path / "in") == tmp_path / "in" / ".._.._etc" / "0000.png"
    assert files.copy_by_class(picture, "..", tmp_path).parent.name == "_"


def test_folders_that_are_links_are_searched_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images" / "__MACOSX").mkdir(parents=True)
    for name in ("elsewhere/a.png", "images/__MACOSX/b.png", "images/c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "d.png").symlink_to(tmp_path / "images" / "d.png")  # which cannot be read, unlike the others

    found = files.find([str(tmp_path / "images")])

    assert [Path(each).relative_to(tmp_path / "images").as_posix() for each in found] == [
        "c.png", "d.png", "linked/a.png",
    ]  # fmt: skip


def test_folders_are_searched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dynconv")
    for name in ("b/2.JPG", "a.webp", "b/.hidden/3.png", ".4.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()

    assert files.find([str(tmp_path), "x.gif"]) == [str(tmp_path / "a.webp"), str(tmp_path / "b/2.JPG"), "x.gif"]
    assert "1 file without the ending of an image is left out" in caplog.text
    with pytest.raises(DynconvError, match="has no files with the ending of an image"):
        files.find([str(tmp_path / "empty")])
    with pytest.raises(DynconvError, match="only once"):
        files.find(["-", "-"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "IMAGE|FOLDER|- is missing"),
        (["a.png", "--json", "--csv"], "choose one of --json and --csv"),
        (["a.png", "--model", "nowhere"], "nowhere"),
        (["a.png", "--top", "0"], "top: must be a whole number, at least 1"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""


def test_files_pil_images_arrays_and_tensors_are_all_the_same(run: Path, pictures: Path) -> None:
    predictor, path = Predictor.load(run), pictures / "0003.png"
    pixels = np.array(Image.open(path).convert("RGB"))

    first = predictor.predict(path)

    forms = [
        str(path),
        Image.open(path),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
        io.BytesIO(path.read_bytes()),
    ]
    assert all(each == first for each in map(predictor.predict, forms))
    assert first.label == first.top[0][0] and first.probability == first.top[0][1] and len(first.top) == 3
    assert [each.label for each in predictor.predict([path, pixels])] == [first.label] * 2
    assert predictor.predict([]) == []


def test_arrays_of_another_kind_are_refused(run: Path) -> None:
    for wrong, said in (
        (np.zeros((32, 32, 3), np.float32), "an array must be uint8"),
        (np.zeros((3, 32, 32), np.uint8), r"\[H, W, 3\]"),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"a tensor must be uint8 \[3, H, W\]"),
    ):
        with pytest.raises(ValueError, match=said):
            to_pixels(wrong, Frame())


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2]


def foreign(content: bytes) -> bytes:
    return content.replace(b'"dynconv"', b'"another"')


def newer(content: bytes) -> bytes:
    return content.replace(rb"\"format\": 2", rb"\"format\": 9")


@pytest.mark.parametrize(
    ("change", "said"),
    [(damaged, "truncated"), (foreign, "not a weights file of dynconv"), (newer, "newer than this dynconv")],
)
def test_weights_that_cannot_be_used(
    change: Callable[[bytes], bytes], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (run / "weights.safetensors").read_bytes()
    assert change(content) != content
    (tmp_path / "w.safetensors").write_bytes(change(content))

    assert main(["predict", "x.png", "--model", str(tmp_path / "w.safetensors")]) == 2

    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.splitlines()) == 1


def test_weights_of_another_architecture(run: Path, tmp_path: Path) -> None:
    weights: Weights = load_weights(run / "weights.safetensors")
    model = weights.model.model_copy(update={"experts": (5,)})
    save_weights(tmp_path / "w.safetensors", replace(weights, model=model))

    with pytest.raises(DynconvError, match="do not fit the network"):
        Predictor.load(tmp_path / "w.safetensors")


def test_bench_times_reading_and_the_network(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dynconv.bench.predict.IMAGES", 20)
    words = ["bench", "predict", "--model", str(run), "--rounds", "1", "--output", str(tmp_path / "predict.json")]
    words += ["--allow-uncommitted"]

    assert main(words) == 0

    rates = json.loads((tmp_path / "predict.json").read_text())["images_per_second"]
    assert set(rates) == {"reading PNG files", "the network", "predict, both"} and min(rates.values()) > 0
    assert capsys.readouterr().out.count("images/s") == 3


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_weights_know_cifar10(real_cifar10: Callable[[str], Path], name: str) -> None:
    from dynconv import data

    predictor = Predictor.load(name)
    test = data.load(str(real_cifar10("npy"))).test
    right = predictor.logits(test.images[:500]).argmax(1) == test.labels[:500]

    assert packaged_weights(name).stat().st_size < 20_000_000
    assert predictor.data_name == "cifar10" and "truck" in predictor.classes
    assert float(right.float().mean()) > 0.9
    card = packaged_weights(name).with_suffix(".md").read_text()
    assert all(label in card for label in predictor.classes) and "{" not in card


def test_predict_and_evaluate_agree_on_images_of_another_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}-images.npy", images)
        np.save(tmp_path / f"{split}-labels.npy", np.arange(20) % 10)
    predictor = Predictor.load(run)
    predictor.classes = tuple(f"class {i}" for i in range(10))  # arrays carry no names

    evaluated = evaluate.evaluate(predictor, trained_data.load_dataset(predictor, str(tmp_path)).test)
    predicted = predictor.predict(list(images), top=10)

    for row, prediction in zip(evaluated.probabilities.tolist(), predicted, strict=True):
        assert dict(prediction.top) == dict(zip(predictor.classes, row, strict=True))
