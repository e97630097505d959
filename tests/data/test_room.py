import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import train

from dynconv import data
from dynconv.data import hold_out, room, shapes
from dynconv.errors import DynconvError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images in class folders."""
    path, dataset = tmp_path_factory.mktemp("folder"), shapes.generate(0, 300, 50)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            file = path / name / f"class{label}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return path


def mapped() -> int:
    """How many files without a name this process has mapped."""
    return Path("/proc/self/maps").read_text().count("(deleted)")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
def test_many_images_lie_in_a_file_and_train_the_same_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = hold_out(data.load(str(folder)), 50, 0)
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = mapped()
    in_a_file = hold_out(data.load(str(folder)), 50, 0)

    assert mapped() >= before + 3, "of the training, held-out and test images"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "the files have no names"
    for one, other in ((in_memory.train, in_a_file.train), (in_memory.test, in_a_file.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    losses = [
        [line.loss for line in train(tmp_path / name, dataset, tta=False)[0].metrics().steps]
        for name, dataset in (("memory", in_memory), ("file", in_a_file))
    ]
    assert losses[0] == losses[1]


def test_that_many_images_are_read_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dynconv.data.listing._MANY", 350)

    with caplog.at_level("INFO"):
        data.load(str(folder))

    assert f"reading 350 images from {folder}" in caplog.messages


def test_a_disk_that_has_no_room_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(room, "IN_MEMORY", 0)
    monkeypatch.setattr(room, "_reserve", full)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(DynconvError, match=r"cannot hold 3,072 bytes of images \(No space left on device\); free some"):
        room.room_for(1, 32)
