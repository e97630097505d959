"""`dynconv data`: what a data set holds, and what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dynconv import api
from dynconv.cli.main import main

RNG = np.random.default_rng(0)


def photo(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = RNG.integers(0, 100, (5, 5, 3), dtype=np.uint8) + np.uint8(shade)
    Image.fromarray(small).resize((40, 48), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten dark and 25 light pictures in train/, two of each in test/; a name has the marks of rich's markup."""
    for split, counts in (("train", (10, 25)), ("test", (2, 2))):
        for label, (name, count) in enumerate(zip(("[red]cat", "dög"), counts, strict=True)):
            for number in range(count):
                photo(tmp_path / "pets" / split / name / f"{number}.png", 120 * label)
    return tmp_path / "pets"


def examined(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["data", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_counts_sizes_and_a_contact_sheet(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["data", str(pets)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pets: 2 classes, 39 images"
    assert lines[1].startswith("read at 32x32 pixels (crop); in the files shorter sides of 40 to 40, median 40")
    assert [line.split() for line in lines if "cat" in line or "dög" in line][:2] == [
        ["[red]cat", "10", "2"], ["dög", "25", "2"],
    ]  # fmt: skip
    assert "damaged: none" in lines and "copies: none" in lines
    assert "- few images: [red]cat with fewer than 20 to train on" in lines
    assert lines[-1] == "contact-sheet.png"
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 10 * 64


def test_copies_damage_and_wrong_labels_are_named(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = pets / "train/dög/0.png"
    (pets / "test/dög/copy.png").write_bytes(first.read_bytes())
    (pets / "train/[red]cat/other.png").write_bytes(first.read_bytes())
    (pets / "train/dög/24.png").write_bytes(b"no image")

    found = examined(capsys, str(pets))

    assert list(found["damaged"]) == [str(pets / "train/dög/24.png")]
    (group,) = found["copies"]
    assert set(group) == {str(first), str(pets / "test/dög/copy.png"), str(pets / "train/[red]cat/other.png")}
    assert found["copies_across_splits"] == found["copies_with_different_labels"] == found["copies"]
    assert len(found["advice"]) == 4


def test_of_many_copies_those_that_differ_are_named_first(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a row of copies with different labels can name images of one class alone."""
    monkeypatch.chdir(tmp_path)
    first = pets / "train/[red]cat/0.png"
    for number in range(100, 106):
        (pets / f"train/[red]cat/{number}.png").write_bytes(first.read_bytes())
    (pets / "train/dög/copy.png").write_bytes(first.read_bytes())

    assert main(["data", str(pets)]) == 0

    lines = capsys.readouterr().out.splitlines()
    row = lines[lines.index("copies with different labels: 1") + 1]
    assert "[red]cat" in row and "dög/copy.png (train)" in row
    assert row.endswith(" = ... (4 more)")


def test_a_folder_without_splits_says_how_it_is_split(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys, str(pets / "train"))

    assert not found["own_splits"]
    assert found["classes"] == {"[red]cat": {"train": 8, "test": 2}, "dög": {"train": 20, "test": 5}}


@pytest.mark.parametrize("place", ["train/owl", "owl"])
def test_a_class_without_images_is_a_problem_beside_the_counts(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = pets if place.startswith("train/") else pets / "train"
    (source / place).mkdir()
    if place == "train/owl":
        photo(pets / "test/owl/1.png")

    assert main(["data", str(source)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f": 3 classes, {40 if place == 'train/owl' else 35} images")
    assert f"- {source / place}: holds no image, such as a .png or .jpg file" in lines
    assert main(["train", "quick", "--data", str(source), "--run", str(tmp_path / "run")]) == 2
    assert "owl: holds no image" in capsys.readouterr().err


def test_small_drawings_on_white_are_no_copies_and_can_be_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bar", "ring"):
        (tmp_path / "sketch" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.new("RGB", (128, 128), "white")
            draw, x, y = ImageDraw.Draw(image), 10 + 5 * number, int(RNG.integers(10, 118))
            (draw.ellipse if name == "ring" else draw.rectangle)((x, y, x + 8, y + 4), outline="black", width=2)
            image.save(tmp_path / "sketch" / name / f"{number}.png")

    found = examined(capsys, str(tmp_path / "sketch"))

    assert found["copies"] == [] and found["advice"] == ["few images: bar, ring with fewer than 20 to train on"]
    assert found["classes"] == {"bar": {"train": 16, "test": 4}, "ring": {"train": 16, "test": 4}}


def test_labels_that_a_network_doubts(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dark and light pictures; one light one is among the dark ones."""
    wrong = photo(pets / "test/[red]cat/light.png", 120)
    run = api.train(
        data=pets, run=tmp_path / "run", epochs=40, tta=False, batch_size=35, micro_batch=35, image_sizes=[8],
        model={"widths": [8], "pools": [2], "whiten": False}, optim={"name": "sgd", "lr": 0.05},
    )  # fmt: skip
    capsys.readouterr()

    found = examined(capsys, str(pets), "--model", str(run.path))

    first = found["labels_in_doubt"][0]
    assert first["image"] == str(wrong) and first["split"] == "test"
    assert first["given"] == "[red]cat" and first["likely"] == "dög" and first["likely_probability"] > 0.5


def test_what_training_sees(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("plain", []), ("seen", ["--augmented", "--augment.policy", "trivialaugment"])):
        assert main(["data", str(pets), "--sheet", str(tmp_path / f"{name}.png"), *words]) == 0
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "seen.png") as seen:
        assert plain.size == seen.size and plain.tobytes() != seen.tobytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["."], "holds none of the supported data formats"),
        (["shapes", "--model", "accurate"], "its classes are not those of the network"),
        (["shapes", "--sheet", "missing/sheet.png"], "missing"),
        (["shapes", "--data.size", "4"], "data.size: must be auto, or a whole number from 8 to 512, not 4"),
        (["shapes", "--data.fit", "zoom"], "data.fit: must be one of crop, pad, stretch, not zoom"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    assert main(["data", *words]) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dynconv: error: ") and said in error


def test_generated_and_array_data_have_places_instead_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys, "shapes")

    assert sum(count for counts in found["classes"].values() for count in counts.values()) == 12_000
    assert found["damaged"] == {} and found["copies_across_splits"] == []


def test_a_folder_that_cannot_be_split_or_read_is_shown_all_the_same(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pets / "train"
    (folder / "dög/3.png").write_bytes(b"no image")
    photo(folder / "single/1.png")

    found = examined(capsys, str(folder))

    assert list(found["damaged"]) == [str(folder / "dög/3.png")]
    assert found["classes"]["single"] == {"train": 1}
    assert found["advice"][0] == f"{folder}: class single: has one image, needs two or more"


def test_shifts_beyond_the_image_are_one_line(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--data.size", "16", "--augment.translate", "16"]
    for words in (
        ["data", str(pets), "--augmented", *size],
        ["train", "--data", str(pets), "--image-sizes", "16", *size],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == "dynconv: error: augment.translate: must be below the side of the images, 16, not 16"
    assert not (tmp_path / "runs").exists()
