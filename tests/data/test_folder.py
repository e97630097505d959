import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data.dataset import DataError
from dynconv.data.find import found_at, read


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


def test_deep_folders_and_other_endings_belong_to_their_class(folder: Path) -> None:
    """All of them are pictures to whoever collected them: a phone writes .jfif, a scanner .tiff."""
    for number, ending in enumerate(("jfif", "jpe", "bmp", "gif", "tif", "tiff", "webp", "ppm", "PNG")):
        picture(folder / f"train/cat/{'more/' * (number % 3)}new-{number}.{ending}", colour=(160, 0, 0))

    dataset = read(folder)

    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 13 + [2] * 4
    red = dataset.train.images[4:17, 0].float().mean((1, 2))
    torch.testing.assert_close(red, torch.full((13,), 160.0), rtol=0, atol=6)


def test_whatever_is_left_out_is_counted_and_said_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(folder)
    assert not caplog.records

    (folder / "train/cat/.hidden.png").write_bytes(b"x")
    (folder / "train/cat/more").mkdir()
    for name in ("cat/notes.txt", "cat/more/notes.txt", "bee/README", "list.csv"):
        (folder / "train" / name).write_text("x")
    (folder / "train/.cache").mkdir()
    (folder / "val/cat/bad\x1b[31m.x\ny").write_text("x")

    assert len(read(folder).train.labels) == 12

    (line,) = caplog.messages
    start, _, rest = line.partition(" left out (")
    assert start == f"{folder}: 7 files" and line.isprintable()
    kinds = ("2 hidden", "2 .txt", "1 without an ending", "1 outside the class folders", r"val/: 1 .x\ny")
    assert all(kind in rest for kind in kinds)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_and_loops_end(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "elsewhere/1.png")
    (folder / "train/cat/elsewhere").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "train/cat/loop").symlink_to(folder / "train/cat", target_is_directory=True)
    (folder / "train/cat/gone.png").symlink_to(tmp_path / "gone.png")

    assert read(folder).train.labels.bincount().tolist() == [4, 5, 4]
    assert caplog.messages == [f"{folder}: 1 file left out (train/: 1 broken)"]


@pytest.mark.parametrize("name", [b"cat\xff", b"a\x1b[31mb", b"two\nlines", b" "])
def test_a_class_that_cannot_be_shown_is_refused_before_any_image_is_read(folder: Path, name: bytes) -> None:
    for split in ("train", "val"):
        try:
            (folder / split / os.fsdecode(name)).mkdir()
        except OSError:
            pytest.skip("the file system takes no such name")
    (folder / "train/cat/1.png").write_bytes(b"damaged")

    with pytest.raises(DataError, match="class name") as caught:
        read(folder)
    assert str(caught.value).isprintable()


def test_what_is_scaled_down_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(folder / "train/cat/photo.png", (224, 200))
    picture(folder / "train/cat/small.png", (16, 16))

    with caplog.at_level("INFO"):
        read(folder)

    (line,) = caplog.messages
    assert line.startswith(
        f"{folder}: 2 of 26 images are not 32x32 pixels, the largest of 32, 48, 64, 96, 128 that half of them reach "
        "(shorter sides 16 to 200, median 32); each is scaled"
    )


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"train": "train"}, "has train/, but neither test/ nor val/; move some images of each class to test/CLASS/"),
        ({"val": "val"}, "has val/, but no train/; put the training images into train/CLASS/"),
        ({"train/cat": "cat"}, "has images of one class only (cat); add a folder with those of another"),
    ],
)
def test_half_a_form_says_what_is_missing_and_what_to_do(
    folder: Path, tmp_path: Path, kept: dict[str, str], said: str
) -> None:
    for source, target in kept.items():
        shutil.copytree(folder / source, tmp_path / "half" / target)

    with pytest.raises(DataError) as caught:
        read(tmp_path / "half")
    assert str(caught.value).startswith(f"{tmp_path / 'half'}: {said}")


def test_images_without_folders_of_classes_say_what_a_data_set_looks_like(folder: Path) -> None:
    """Not that the folder above is one, whose other folders may be of anything."""
    with pytest.raises(DataError) as caught:
        read(folder / "train/cat")

    assert str(caught.value) == (
        f"{folder / 'train/cat'}: holds images but no folders of classes; put them into one folder for each class, "
        "such as pets/cat/1.png and pets/dog/1.png, and give pets"
    )


def test_images_of_a_class_may_all_lie_in_folders_of_its_own(tmp_path: Path) -> None:
    for name, years in (("cat", ("2023", "2024")), ("dog", ("2023/may", "")), ("owl", ("2024",))):
        for year in years:
            for number in range(2):
                picture(
                    tmp_path / "pets" / name / year / f"{number}.png",
                    colour=(len(name + year) * 9, number * 99, ord(name[0])),
                )
    (tmp_path / "pets/README.md").write_text("x")

    dataset = read(tmp_path / "pets")

    assert dataset.classes == ("cat", "dog", "owl")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 10


@pytest.mark.parametrize(
    "files",
    [
        ("docs/images/1.png", "docs/1.md", "docs/2.md", "tests/data/1.png", "tests/1.py", "tests/2.py"),
        ("docs/images/1.png", "pets/cat/1.png", "src/main.py"),
        ("pets/train/cat/1.png", "pets/test/cat/1.png", "birds/owl/1.png"),
    ],
)
def test_a_folder_of_other_things_is_not_taken_for_classes(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        path = tmp_path / "things" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path) if path.suffix == ".png" else path.write_text("x")

    with pytest.raises(DataError, match="holds none of the supported data formats"):
        read(tmp_path / "things")


def test_folders_of_data_sets_in_a_usual_place_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pets/cat", "pets/dog", "birds/owl", "birds/jay"):
        picture(tmp_path / "data" / name / "1.png")
    monkeypatch.chdir(tmp_path)

    assert not found_at(Path("data")) and found_at(Path("data/pets"))


def test_a_folder_around_the_classes_says_which_to_give(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path / "x/a/b")

    with pytest.raises(DataError, match=rf"x: holds one folder around others; .*, give {tmp_path}/x/a/b$"):
        read(tmp_path / "x")


def test_a_class_missing_from_one_split_is_named(folder: Path) -> None:
    picture(folder / "train/dog/1.png")
    with pytest.raises(DataError, match="val: class dog missing"):
        read(folder)
    picture(folder / "val/dog/1.png")
    (folder / "train/dog/1.png").unlink()
    with pytest.raises(DataError, match="dog: holds no image"):
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
