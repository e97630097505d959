"""A run goes on with the data that it began with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import WORDS

from dynconv.cli.main import main

TRAIN = ["train", "quick", *WORDS, "--epochs", "2", "--batch-size", "8", "--micro-batch", "8", "--no-report"]


def photographs(folder: Path, classes: tuple[str, ...], images: int) -> Path:
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on `pets` that can go on."""
    data = photographs(tmp_path / "pets", ("cat", "dog"), 20)
    assert main([*TRAIN, "--data", str(data), "--run", str(tmp_path / "run")]) == 0
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def go_on(run: Path, *words: str) -> int:
    return main(["train", "--resume", str(run), "--no-report", *words])


def test_the_same_data_elsewhere(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = (tmp_path / "pets").rename(tmp_path / "moved")
    capsys.readouterr()

    assert go_on(run, "--data", str(moved)) == 0
    assert "began" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "images"), [(("cat", "horse"), 20), (("cat", "dog", "horse"), 20), (("cat", "dog"), 25)]
)
def test_other_classes_or_images_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: tuple[str, ...], images: int
) -> None:
    other = photographs(tmp_path / "other", classes, images)

    assert go_on(run, "--data", str(other)) == 2
    assert f"{other}: not the data that this run began with" in capsys.readouterr().err


def test_changed_pixels_are_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path / "pets").glob("*/*.png"):
        with Image.open(file) as image:
            pixels = np.asarray(image) ^ 1  # as from another decoder
        Image.fromarray(pixels).save(file)

    assert go_on(run) == 0
    assert "some images have changed" in capsys.readouterr().err


def test_evaluating_on_changed_data_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "test images may have been trained on" not in capsys.readouterr().err
    photographs(tmp_path / "pets", ("cat", "dog"), 25)

    assert main(["evaluate", str(run)]) == 0
    assert "test images may have been trained on" in capsys.readouterr().err
