"""Where the data are looked for, and what is said when they are nowhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynconv.data import download, find
from dynconv.data.dataset import DataError


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ./data, an empty cache, and no network."""

    def offline(*_: object) -> Path:
        raise DataError("the download failed: offline")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(find, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(download, "download", offline)


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a data set of `name`, with one image a class more than the others have, into tmp_path/name."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            np.save(folder / f"{split}-images.npy", np.zeros((4, 32, 32, 3), np.uint8))
            np.save(folder / f"{split}-labels.npy", np.arange(4))
        return folder

    return write


def test_the_variable_comes_before_the_folder_before_the_cache(
    arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, here, named = arrays("cache"), arrays("here/data"), arrays("named")

    monkeypatch.setenv("DYNCONV_DATA", str(named))
    assert find.load("auto").origin == str(named)
    monkeypatch.delenv("DYNCONV_DATA")
    assert find.load("auto").origin == "data"
    for file in here.iterdir():
        file.unlink()
    assert find.load("auto").origin == str(cache)
    assert find.load(str(named)).origin == str(named)


def test_without_data_cifar10_is_an_error_with_three_ways_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find.load("cifar10")

    text = str(caught.value)
    assert "\n" not in text and "offline" in text
    for way in ("--data PATH", str(tmp_path / "cache"), "--data shapes"):
        assert way in text


def test_without_data_auto_says_that_it_trains_on_something_else() -> None:
    said: list[str] = []

    dataset = find.load("auto", announce=said.append)

    assert dataset.name == "shapes"
    banner = "\n".join(said)
    assert "NO CIFAR-10" in banner and "offline" in banner and "says nothing about CIFAR-10" in banner


def test_damaged_data_is_an_error_even_for_auto(
    arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Passing over it would train on something other than what the user put there."""
    (arrays("cache") / "test-labels.npy").unlink()
    with pytest.raises(DataError, match="test-labels missing"):
        find.load("auto")

    monkeypatch.setenv("DYNCONV_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere: does not exist"):
        find.load("auto")


def test_a_folder_of_something_else_says_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "here/notes.txt").write_text("x")
    for path in (tmp_path / "here", tmp_path / "here/notes.txt"):
        with pytest.raises(DataError, match=r"cifar-10-batches-py/.*train/ and test/"):
            find.load(str(path))


@pytest.mark.parametrize("variable", [False, True])
def test_another_set_is_not_taken_for_cifar10(
    arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    place = arrays("mine") if variable else arrays("here/data")
    if variable:
        monkeypatch.setenv("DYNCONV_DATA", str(place))
    where = f"$DYNCONV_DATA, {place}," if variable else "data"
    origin = place if variable else "data"

    with pytest.raises(DataError) as caught:
        find.load("cifar10")
    assert str(caught.value) == f"{where} holds 4 images of 4 classes, not CIFAR-10; use --data {origin}"

    said: list[str] = []
    assert find.load("auto", announce=said.append).origin == str(origin)
    assert said == [f"{where} holds 4 images of 4 classes, not CIFAR-10; auto takes it all the same"]
    assert find.load(str(origin), announce=said.append).origin == str(origin) and len(said) == 1


def test_the_home_of_nobody_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^~nosuchuser/x: there is no such home directory"):
        find.load("~nosuchuser/x")
    monkeypatch.setenv("DYNCONV_DATA", "~nosuchuser/x")
    with pytest.raises(DataError, match=r"^~nosuchuser/x: there is no such home directory"):
        find.load("auto")


def test_validation_images_that_are_left_out_are_said(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "mine" / split / name / "1.png")
    said: list[str] = []

    assert len(find.load(str(tmp_path / "mine"), announce=said.append).test.labels) == 2

    assert len(said) == 1 and said[0].startswith(f"{tmp_path / 'mine'}: val/ is left out")
