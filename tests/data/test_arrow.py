"""Folders of Hugging Face's `datasets`, saved to disk or as the Hub has them."""

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from arrow_files import png, save, table
from PIL import Image

from dynconv.cli.main import main
from dynconv.data import Dataset, load
from dynconv.data.dataset import DataError

RNG = np.random.default_rng(0)
NAMES = ("bee", "ant", "cat")


def photo(side: int = 32) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))


def rows(count: int, side: int = 32) -> pyarrow.Table:
    return table([png(photo(side)) for _ in range(count)], [number % 3 for number in range(count)], NAMES)


def counts(dataset: Dataset) -> tuple[int, int, int]:
    validation = dataset.validation
    return len(dataset.train.labels), len(dataset.test.labels), len(validation.labels) if validation else 0


@pytest.mark.parametrize("pattern", ["{}/data-00000-of-00001.arrow", "data/{}-00000-of-00001.parquet", "{}.parquet"])
def test_splits_are_known_by_their_names(tmp_path: Path, pattern: str) -> None:
    pictures = [photo() for _ in range(9)]
    train = table([png(picture) for picture in pictures], [2, 1, 0] * 3, NAMES)
    save(tmp_path / "bugs" / pattern.format("train"), train)
    save(tmp_path / "bugs" / pattern.format("test"), rows(6))
    save(tmp_path / "bugs" / pattern.format("validation"), rows(3))

    dataset = load(str(tmp_path / "bugs"))

    assert (dataset.name, dataset.classes, counts(dataset)) == ("bugs", NAMES, (9, 6, 3))
    assert dataset.train.labels.tolist() == [2, 1, 0] * 3
    for picture, image in zip(pictures, dataset.train.images, strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(picture)))


def test_several_files_make_a_split_in_their_order(tmp_path: Path) -> None:
    for number in range(3):
        labels = [number, (number + 1) % 3, (number + 2) % 3]
        save(
            tmp_path / f"train/data-0000{number}-of-00003.arrow", table([png(photo()) for _ in range(3)], labels, NAMES)
        )
    save(tmp_path / "test/data-00000-of-00001.arrow", rows(3))

    assert load(str(tmp_path)).train.labels.tolist() == [0, 1, 2, 1, 2, 0, 2, 0, 1]


def test_without_splits_a_fifth_is_set_aside(tmp_path: Path) -> None:
    save(tmp_path / "one/data-00000-of-00001.arrow", rows(30))
    file = save(tmp_path / "two/bugs.parquet", rows(30))

    assert counts(load(str(tmp_path / "one"))) == (24, 6, 0)
    assert counts(load(str(file))) == (24, 6, 0) and load(str(file)).name == "bugs"


def test_test_images_without_labels_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "data/train-00000-of-00001.parquet", rows(9))
    save(tmp_path / "data/test-00000-of-00001.parquet", table([png(photo()) for _ in range(4)], [-1] * 4, NAMES))
    save(tmp_path / "data/validation-00000-of-00001.parquet", rows(6))

    with caplog.at_level("INFO"):
        assert counts(load(str(tmp_path))) == (9, 6, 0)
    assert any("test images have no labels" in line for line in caplog.messages)


def test_classes_may_be_text_or_numbers(tmp_path: Path) -> None:
    text = table([png(photo()) for _ in range(10)], ["b", "a"] * 5, label="category")
    numbers = table([png(photo()) for _ in range(10)], [10, 9] * 5, label="target")

    assert load(str(save(tmp_path / "text.parquet", text))).classes == ("a", "b")
    assert load(str(save(tmp_path / "numbers.parquet", numbers))).classes == ("9", "10")


def test_images_may_be_files_of_their_own(tmp_path: Path) -> None:
    for number in range(10):
        photo().save(tmp_path / f"{number}.png")
    images = [{"bytes": None, "path": f"{number}.png"} for number in range(10)]

    assert counts(load(str(save(tmp_path / "listed.parquet", table(images, ["a", "b"] * 5))))) == (8, 2, 0)


def test_the_size_follows_from_the_images(tmp_path: Path) -> None:
    assert load(str(save(tmp_path / "large.parquet", rows(30, side=96)))).frame.size == 96


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(path: Path) -> str:
        assert main(["data", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("dynconv: error: ")

    whole = save(tmp_path / "cut/train-0.parquet", rows(9)).read_bytes()
    (tmp_path / "cut/test-0.parquet").write_bytes(whole[:-20])
    assert said(tmp_path / "cut").startswith(f"{tmp_path / 'cut/test-0.parquet'}: cannot be read (")

    stream = save(tmp_path / "stream/train/data-0.arrow", rows(9)).read_bytes()
    (tmp_path / "stream/train/data-0.arrow").write_bytes(stream[:-400])
    assert said(tmp_path / "stream").startswith(f"{tmp_path / 'stream/train/data-0.arrow'}: cannot be read (")

    for name in ("plain", "other"):
        save(tmp_path / "both" / name / "train-0.parquet", rows(3))
    assert said(tmp_path / "both") == f"{tmp_path / 'both'}: holds several sets (other, plain); give the folder of one"

    save(tmp_path / "untrained/test-0.parquet", rows(3))
    assert "has no training images" in said(tmp_path / "untrained")

    save(tmp_path / "unnamed/train-0.parquet", rows(3))
    save(tmp_path / "unnamed/extra.parquet", rows(3))
    assert "extra.parquet names no split" in said(tmp_path / "unnamed")

    texts = pyarrow.table({"text": ["a", "b"], "label": [0, 1]})
    found = said(save(tmp_path / "texts.parquet", texts))
    assert found.endswith("texts.parquet: needs one column of images, an Image or a ClassLabel; has text, label")

    odd = table([png(photo()) for _ in range(3)], [0, 1, 7], NAMES)
    assert said(save(tmp_path / "odd.parquet", odd)).endswith("odd.parquet/row 2: label 7; must be 0 to 2")

    save(tmp_path / "uneven/train-0.parquet", rows(3))
    save(tmp_path / "uneven/train-1.parquet", table([png(photo())], [0], NAMES, label="kind"))
    assert said(tmp_path / "uneven").endswith("train-1.parquet: has no column label, which other files have")

    bare = table([png(photo()) for _ in range(3)], [0, None, 2], NAMES)
    assert said(save(tmp_path / "bare.parquet", bare)).endswith("bare.parquet/row 1: has no label; remove it")


def test_a_file_that_would_unpack_to_gigabytes_is_refused(tmp_path: Path) -> None:
    images = [{"bytes": bytes(100_000_000 + number), "path": None} for number in range(3)]
    pyarrow.parquet.write_table(table(images, [0, 1, 0], ["a", "b"]), tmp_path / "bomb.parquet", compression="zstd")

    with pytest.raises(DataError, match=r"bomb.parquet: would expand from .* save it as PNG or JPEG images"):
        load(str(tmp_path / "bomb.parquet"))


def test_hidden_files_make_no_data_set(tmp_path: Path) -> None:
    """As a download leaves them beside folders of classes."""
    save(tmp_path / ".cache/train-0.parquet", rows(3))
    for number in range(10):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        photo().save(tmp_path / "ab"[number % 2] / f"{number}.png")

    assert load(str(tmp_path)).classes == ("a", "b")


def test_damaged_images_are_named_by_their_row(tmp_path: Path) -> None:
    images = [*(png(photo()) for _ in range(9)), {"bytes": b"no image", "path": None}, {"bytes": None, "path": None}]
    save(tmp_path / "train-0.parquet", table(images, [0, 1, 2] * 3 + [0, 1], NAMES))
    save(tmp_path / "test-0.parquet", rows(3))

    with pytest.raises(DataError, match=r"2 images cannot be read \(.*train-0.parquet/row 9, .*/row 10\)"):
        load(str(tmp_path))


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "bugs.parquet", rows(9))
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(DataError, match=r"bugs.parquet: needs pyarrow, .*: pip install 'dynconv\[arrow\]'"):
        load(str(file))
