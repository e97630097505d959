from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data.dataset import DataError
from dynconv.data.find import read


def picture(path: Path, size: tuple[int, int] = (32, 32), colour: tuple[int, ...] = (200, 100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **({"quality": 95} if path.suffix != ".png" else {}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for value, name in enumerate(("owl", "bee", "cat")):
            for ending in ("png", "jpg", "webp", "JPEG"):
                picture(tmp_path / "mine" / split / name / f"1.{ending}", colour=(value * 80, 0, 0))
    return tmp_path / "mine"


def test_classes_are_sorted_folders_in_every_format(folder: Path) -> None:
    dataset = read(folder)

    assert dataset.classes == ("bee", "cat", "owl") and dataset.name == "mine"
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    red = dataset.train.images[:, 0].float().mean((1, 2))
    expected = torch.tensor([80.0] * 4 + [160.0] * 4 + [0.0] * 4)
    torch.testing.assert_close(red, expected, rtol=0, atol=6)  # JPEG and WebP lose a little


def test_hidden_and_foreign_files_are_passed_over(folder: Path) -> None:
    (folder / "train/cat/.hidden.png").write_bytes(b"x")
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/.cache").mkdir()

    assert len(read(folder).train.labels) == 12


def test_a_class_missing_from_one_split_is_named(folder: Path) -> None:
    picture(folder / "train/dog/1.png")
    with pytest.raises(DataError, match="val: class dog missing"):
        read(folder)
    picture(folder / "val/dog/1.png")
    (folder / "train/dog/1.png").unlink()
    with pytest.raises(DataError, match="dog: holds no PNG, JPEG or WebP"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_corrupt_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "train/cat/2.png").write_bytes(content)

    with pytest.raises(DataError, match=r"cat/2\.png: damaged"):
        read(folder)


def test_a_truncated_image_is_named(folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (folder / "train/cat/2.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])

    with pytest.raises(DataError, match=r"cat/2\.png: damaged"):
        read(folder)


def test_a_decompression_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder / "train/cat/2.png", (400, 400))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)

    with pytest.raises(DataError, match=r"cat/2\.png: too large"):
        read(folder)
