"""Where data are looked for, in which forms, and what the user is told."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynconv import data
from dynconv.data import download, find, places, registry
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.frame import DataConfig


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No ./data, an empty cache, no network, and all messages."""
    caplog.set_level(logging.INFO, "dynconv")

    def offline(*_: object) -> Path:
        raise DataError("the download failed: offline")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(places, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(download, "download", offline)


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a data set of four classes, one image each, into tmp_path/name."""

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
    assert find.load("auto").origin == str(here)
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


def test_without_data_auto_warns_that_it_takes_something_else(caplog: pytest.LogCaptureFixture) -> None:
    dataset = find.load("auto", seed=3)

    assert dataset.name == "shapes" and "seed 3" in dataset.origin
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    for words in ("NO CIFAR-10", "offline", "says nothing about CIFAR-10"):
        assert words in record.getMessage()


def test_damaged_data_is_an_error_even_for_auto(
    arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Passing over it would train on something other than what the user put there."""
    (arrays("cache") / "test-labels.npy").unlink()
    with pytest.raises(DataError, match="test-labels missing"):
        find.load("auto")

    assert data.at_hand("auto")  # it stands in the way, so there is no download
    monkeypatch.setenv("DYNCONV_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere: does not exist"):
        find.load("auto")


def test_a_folder_of_something_else_says_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "here/notes.txt").write_text("x")
    for path in (tmp_path / "here", tmp_path / "here/notes.txt"):
        with pytest.raises(DataError, match=r"cifar-10-batches-py/.*folders of images"):
            find.load(str(path))


@pytest.mark.parametrize("variable", [False, True])
def test_another_set_is_not_taken_for_cifar10(
    arrays: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: bool,
) -> None:
    place = arrays("mine") if variable else arrays("here/data")
    if variable:
        monkeypatch.setenv("DYNCONV_DATA", str(place))
    where = f"$DYNCONV_DATA, {place}," if variable else "data"

    with pytest.raises(DataError) as caught:
        find.load("cifar10")
    assert str(caught.value) == f"{where} holds 4 images of 4 classes, not CIFAR-10; use --data {place}"

    assert find.load("auto").origin == str(place)
    assert caplog.messages == [f"{where} holds 4 images of 4 classes, not CIFAR-10; auto uses it anyway"]
    assert find.load(str(place)).origin == str(place) and len(caplog.messages) == 1


def test_the_origin_is_found_from_another_folder(
    arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays("here/mine")
    origin = find.load("mine").origin
    monkeypatch.chdir(tmp_path)

    assert find.load(origin).origin == origin == str(tmp_path / "here/mine")


def test_what_needs_no_download_is_at_hand(arrays: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.at_hand("shapes") and data.at_hand("./anywhere")
    assert not data.at_hand("cifar10") and not data.at_hand("auto")

    place = arrays("here/data")
    assert data.at_hand("cifar10") and data.at_hand("auto") and data.found_at(place)
    for file in place.iterdir():
        file.unlink()
    assert not data.at_hand("auto") and not data.found_at(place) and not data.found_at(place / "none")
    monkeypatch.setenv("DYNCONV_DATA", str(place))
    assert data.at_hand("cifar10")


def test_a_folder_that_cannot_be_searched_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forbidden(path: Path) -> Path | None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(find, "FORMS", [registry.Form("nothing", forbidden, find.read)])
    (tmp_path / "here/data").mkdir()

    assert data.found_at(Path("data")) and data.at_hand("auto")
    with pytest.raises(DataError) as caught:
        find.load("auto")
    assert str(caught.value) == f"{tmp_path / 'here/data'}: cannot be read (Permission denied)"


def test_a_name_that_is_not_registered_is_answered_with_those_that_are() -> None:
    assert next(iter(data.NAMED)) == "cifar10" and "shapes" in data.NAMED
    with pytest.raises(DataError, match=r"^cifra10: does not exist; .* one of auto, cifar10, .*shapes$"):
        find.load("cifra10")
    with pytest.raises(DataError, match=r"^x{5000}: does not exist"):
        find.load("x" * 5000)
    with pytest.raises(DataError, match=r"^no\\xff\\n: does not exist"):
        find.load("no\udcff\n")


def test_a_registered_data_set_and_form_need_no_other_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "NAMED", registry.NAMED.copy())
    monkeypatch.setattr(registry, "FORMS", registry.FORMS.copy())
    monkeypatch.setattr(find, "NAMED", registry.NAMED)
    monkeypatch.setattr(find, "FORMS", registry.FORMS)
    toy = data.load("shapes")

    @registry.data_set("toy", "toy images", toy.classes)
    def generate(seed: int, _: DataConfig) -> Dataset:
        return Dataset("toy", toy.classes, toy.train, toy.test, f"seed {seed}")

    @registry.form("images.toy", lambda path: path / "images.toy" if (path / "images.toy").is_file() else None)
    def read(path: Path, _: DataConfig) -> Dataset:
        return Dataset("mine", toy.classes, toy.train, toy.test, str(path))

    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"mine: holds none .*; images\.toy$"):
        find.load("../mine")
    (tmp_path / "mine/images.toy").touch()

    assert find.load("toy", seed=7).origin == "seed 7" and find.at_hand("toy")
    assert find.load(str(tmp_path / "mine")).origin == str(tmp_path / "mine/images.toy")
    with pytest.raises(DataError, match=r"one of auto, cifar10, .*, shapes, toy$"):
        find.load("nothing")


def test_a_place_that_holds_several_forms_is_read_as_the_first(arrays: Callable[[str], Path]) -> None:
    place = arrays("here/data")
    (place / "data_batch_1").touch()

    with pytest.raises(DataError, match=r"data_batch_2, .* missing"):
        find.load("auto")


@pytest.mark.parametrize("name", ["cifar10", "shapes"])
def test_a_folder_called_like_a_data_set_is_not_taken_for_it(arrays: Callable[[str], Path], name: str) -> None:
    dataset = find.load(str(arrays(name)))

    assert len(dataset.classes) == 4 and dataset.name == f"{name}-folder"


def test_the_home_of_nobody_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^~nosuchuser/x: there is no such home directory"):
        find.load("~nosuchuser/x")
    monkeypatch.setenv("DYNCONV_DATA", "~nosuchuser/x")
    with pytest.raises(DataError, match=r"^~nosuchuser/x: there is no such home directory"):
        find.load("auto")


def test_validation_images_stay_what_they_are(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "mine" / split / name / "1.png")

    dataset = find.load(str(tmp_path / "mine"))

    assert dataset.validation and [len(split.labels) for split in (dataset.train, dataset.validation)] == [2, 2]
    with pytest.raises(DataError, match="has 2 images for validation of its own; leave out holdout"):
        data.hold_out(dataset, 1, 0)
