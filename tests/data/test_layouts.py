"""Folders as people have them: one folder of classes, three splits, archives, tables; and copies among the images."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from dynconv.data import Dataset, hold_out, load
from dynconv.data.copies import Fingerprint, fingerprint, fingerprints, groups_of_copies, set_aside
from dynconv.data.dataset import DataError
from dynconv.data.frame import DataConfig, Frame, auto_size

RNG = np.random.default_rng(0)


def photo(size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A picture like no other: a few smooth spots of colour."""
    small = RNG.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def write(folder: Path, name: str, image: Image.Image) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def zipped(folder: Path, root: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, f"{root}{file.relative_to(folder).as_posix()}")
        archive.writestr(f"__MACOSX/{root}cat/._00.png", b"no image")
    return path


def tarred(folder: Path, root: str = "") -> Path:
    path = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.add(file, f"{root}{file.relative_to(folder).as_posix()}")
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """One folder of classes, of 10 and 20 images."""
    for name, count in (("cat", 10), ("dog", 20)):
        for number in range(count):
            write(tmp_path / "pets", f"{name}/{number:02}.png", photo())
    return tmp_path / "pets"


def names(dataset: Dataset) -> tuple[list[int], list[int]]:
    return dataset.train.labels.bincount().tolist(), dataset.test.labels.bincount().tolist()


def test_a_folder_of_classes_has_a_fifth_of_each_set_aside(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        dataset = load(str(classes))

    assert dataset.classes == ("cat", "dog") and names(dataset) == ([8, 16], [2, 4])
    assert any("24 images are for training and 6 for testing" in line for line in caplog.messages)


def test_the_split_depends_on_content_alone(classes: Path) -> None:
    first = load(str(classes), seed=0)
    for number, path in enumerate(sorted(classes.glob("*/*.png"))):  # other names, in another order
        path.rename(path.with_name(f"{(number * 7) % 30:02}-renamed.png"))

    again = load(str(classes), seed=3, wanted=DataConfig(size=48))

    assert names(again) == names(first)
    same = load(str(classes))
    assert sorted(map(bytes, first.test.images.numpy())) == sorted(map(bytes, same.test.images.numpy()))


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    """Each picture is there three times: as it is, saved as JPEG, and at half its size."""
    for name in ("cat", "dog"):
        for number in range(10):
            image = photo((64, 48))
            write(tmp_path / "pets", f"{name}/{number}.png", image)
            write(tmp_path / "pets", f"{name}/{number}-saved.jpg", image)
            write(tmp_path / "pets", f"{name}/{number}-small.png", image.resize((32, 24)))

    dataset = load(str(tmp_path / "pets"))

    assert names(dataset) == ([24, 24], [6, 6])
    prints = [
        [fingerprint(bytes(image), Image.fromarray(image.transpose(1, 2, 0))) for image in split.images.numpy()]
        for split in (dataset.train, dataset.test)
    ]
    for group in groups_of_copies(prints[0] + prints[1]):
        assert len({position < len(prints[0]) for position in group}) == 1


def resaved(folder: Path, classes: int, pictures: int, splits: tuple[str, ...] = ("",)) -> Path:
    """So many pictures of each class, each as JPEG of three qualities."""
    for number in range(len(splits) * classes * pictures):
        image = textured()
        for quality in (95, 75, 50):
            path = folder / splits[number % len(splits)] / f"class{number // len(splits) % classes}"
            path.mkdir(parents=True, exist_ok=True)
            image.save(path / f"{number}-{quality}.jpg", quality=quality)
    return folder


def held_out_with_copies(dataset: Dataset) -> list[list[int]]:
    """Groups of copies of which some images are held out and others are not."""
    assert dataset.validation
    prints = fingerprints(np.concatenate([dataset.train.images.numpy(), dataset.validation.images.numpy()]))
    count = len(dataset.train.labels)
    return [group for group in groups_of_copies(prints) if len({position < count for position in group}) > 1]


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
@pytest.mark.parametrize("pack", [Path, zipped])
def test_copies_of_held_out_images_are_held_out_too(
    tmp_path: Path, splits: tuple[str, ...], pack: Callable[[Path], Path]
) -> None:
    dataset = load(str(pack(resaved(tmp_path / "pets", 2, 15, splits))))

    first, again, other = (hold_out(dataset, 12, seed) for seed in (0, 0, 1))

    for held in (first, other):
        assert held.validation and held.validation.labels.bincount().tolist() == [6, 6]
        assert len(held.train.labels) + 12 == len(dataset.train.labels) and not held_out_with_copies(held)
    assert again.validation and first.validation and other.validation
    assert first.validation.images.equal(again.validation.images)
    assert not first.validation.images.equal(other.validation.images)


def test_a_hold_out_that_copies_do_not_fill_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load(str(resaved(tmp_path / "pets", 2, 10)))

    with caplog.at_level("INFO"):
        sizes = {count: hold_out(dataset, count, 0).validation for count in (10, 2)}

    assert [split.labels.bincount().tolist() for split in sizes.values() if split] == [[3, 3], [3, 3]]
    assert [line for line in caplog.messages if "holdout" in line] == [
        "holdout: 6 images, not 10, because copies stay on one side",
        "holdout: 6 images, not 2, because copies stay on one side",
    ]


def test_nothing_can_be_held_out_of_a_class_of_one_picture(tmp_path: Path) -> None:
    same = textured()
    for number in range(8):
        write(tmp_path / "pets", f"train/cat/{number}.png", same)
        write(tmp_path / "pets", f"train/dog/{number}.png", textured())
    for name in ("cat", "dog"):
        write(tmp_path / "pets", f"test/{name}/1.png", textured())

    with pytest.raises(DataError, match=r"^holdout: class 'cat': its 8 images are copies of one another, so none can"):
        hold_out(load(str(tmp_path / "pets")), 2, 0)


def test_pictures_that_differ_are_no_copies() -> None:
    images = [photo() for _ in range(200)]

    assert len(groups_of_copies([fingerprint(image.tobytes(), image) for image in images])) == 200
    plain = [Image.new("RGB", (8, 8), (shade, shade, shade)) for shade in (0, 100, 200)]
    assert len(groups_of_copies([fingerprint(image.tobytes(), image) for image in plain])) == 3


def prints_of(images: list[Image.Image]) -> list[Fingerprint]:
    return [fingerprint(image.tobytes(), image) for image in images]


def textured() -> Image.Image:
    """A picture with spots of every size, as a photograph has."""
    mixed = np.zeros((120, 160, 3))
    for side in (3, 6, 12, 24, 60):
        spots = Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))
        mixed += np.asarray(spots.resize((160, 120), Image.Resampling.BICUBIC)) / 5.0
    return Image.fromarray(mixed.astype(np.uint8))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: saved(image, 60),
    "half as large": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_a_copy_of_its_own_and_of_no_other(change: str) -> None:
    images = [textured() for _ in range(100)]

    groups = groups_of_copies(prints_of(images + [CHANGES[change](image) for image in images]))

    assert all(len({position % 100 for position in group}) == 1 for group in groups)
    assert sum(len(group) == 2 for group in groups) >= 95


def drawing() -> Image.Image:
    """A small dot, ring or bar on white."""
    image = Image.new("RGB", (128, 128), "white")
    x, y, size = (int(number) for number in RNG.integers((20, 20, 5), (108, 108, 10)))
    draw, box = ImageDraw.Draw(image), (x - size, y - size, x + size, y + size)
    [draw.ellipse, draw.rectangle][RNG.integers(2)](box, outline="black", width=3)
    return image


def sky() -> Image.Image:
    """An even slope from blue to pale, steeper or less so, with a little noise."""
    slope = np.linspace(0, RNG.integers(10, 120), 96)[:, None, None] + (100, 120, 130)
    return Image.fromarray((slope + RNG.normal(0, 2, (96, 128, 3))).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("plain", [drawing, sky])
def test_plain_pictures_are_copies_only_if_they_are_identical(plain: Callable[[], Image.Image]) -> None:
    images = [plain() for _ in range(40)]
    images = list({image.tobytes(): image for image in images}.values())
    prints = prints_of([*images, images[0]])

    assert groups_of_copies(prints) == [[0, len(images)], *([each] for each in range(1, len(images)))]
    assert set_aside(prints, [0] * len(prints)).sum() == len(prints) // 5


def film() -> list[Image.Image]:
    """Frames that each resemble the next; the last is another picture than the first."""
    first, last = textured(), textured()
    return [Image.blend(first, last, number / 60) for number in range(61)]


def test_resemblance_does_not_run_on_from_image_to_image() -> None:
    prints = prints_of(film())

    groups = groups_of_copies(prints)

    assert any(len(group) > 1 for group in groups)
    assert max(max(group) - min(group) for group in groups) < 30
    assert set_aside(prints, [0] * len(prints)).sum() > 0


def test_near_copies_alone_do_not_forbid_a_split() -> None:
    image = textured()
    alike = prints_of([image, *(change(image) for change in CHANGES.values())])
    assert len(groups_of_copies(alike)) == 1 and len(groups_of_copies(alike, near=False)) == len(alike)

    aside = set_aside(alike + alike[:1], [0] * 6)

    assert aside.sum() == 1 and not aside[[0, 5]].any()


def test_groups_and_split_do_not_depend_on_the_order() -> None:
    images = [textured() for _ in range(20)] + film()
    prints = prints_of(images + [CHANGES["saved again"](image) for image in images[:20]])
    labels = [position % 2 for position in range(len(prints))]
    order = RNG.permutation(len(prints))

    groups = groups_of_copies([prints[each] for each in order])
    aside = set_aside([prints[each] for each in order], [labels[each] for each in order])

    assert sorted(sorted(int(order[each]) for each in group) for group in groups) == groups_of_copies(prints)
    assert (aside == set_aside(prints, labels)[order]).all()


def test_thousands_of_pictures_that_look_alike_are_compared_all_the_same() -> None:
    base = np.asarray(textured().resize((12, 12), Image.Resampling.BOX)).astype(int)
    alike = (base + RNG.integers(-1, 2, (2000, 12, 12, 3))).clip(0, 255).astype(np.uint8)

    groups = groups_of_copies([Fingerprint(each.tobytes(), each) for each in alike])

    assert sum(map(len, groups)) == 2000 and len(groups) < 40


@pytest.mark.parametrize(
    ("images", "said"),
    [(1, "class dog: has one image, needs two or more"), (3, "class dog: its 3 images are copies of one another")],
)
def test_a_class_that_cannot_be_split_is_named(classes: Path, images: int, said: str) -> None:
    for path in (classes / "dog").iterdir():
        path.unlink()
    same = photo()
    for number in range(images):
        write(classes, f"dog/{number}.png", same)

    with pytest.raises(DataError, match=said):
        load(str(classes))


def test_a_class_of_few_large_groups_still_has_a_test_image() -> None:
    prints = [
        fingerprint(image.tobytes(), image) for image in [photo()] * 4 + [photo()] * 4 + [photo() for _ in range(9)]
    ]

    aside = set_aside(prints, [0] * 8 + [1] * 9)

    assert aside[:8].tolist() in ([True] * 4 + [False] * 4, [False] * 4 + [True] * 4) and aside[8:].sum() == 1


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_three_splits_are_three_splits(tmp_path: Path, name: str) -> None:
    for split, count in (("train", 3), (name, 2), ("test", 1)):
        for label in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / "pets", f"{split}/{label}/{number}.png", photo())

    dataset = load(str(tmp_path / "pets"))

    assert dataset.validation
    assert [len(split.labels) for split in (dataset.train, dataset.validation, dataset.test)] == [6, 4, 2]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("root", ["", "pets-1.0/", "download/pets/images/"])
def test_an_archive_is_read_where_it_is_as_the_folder_is(
    classes: Path, pack: Callable[[Path, str], Path], root: str
) -> None:
    from_folder, before = load(str(classes)), set(classes.parent.iterdir())
    path = pack(classes, root)

    dataset = load(str(path))

    assert dataset.name == "pets" and dataset.classes == from_folder.classes
    assert dataset.train.images.equal(from_folder.train.images) and dataset.test.labels.equal(from_folder.test.labels)
    assert set(classes.parent.iterdir()) == before | {path}


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("Train", "Test"), [6, 2]),
        (("training", "testing"), [6, 2]),
        (("TRAIN", "Validation"), [6, 2]),
        (("Training", "Valid", "TEST"), [6, 4, 2]),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_splits_may_be_called_by_their_other_names_and_in_capitals(
    tmp_path: Path, kind: str, folders: tuple[str, ...], sizes: list[int]
) -> None:
    for split, count in zip(folders, sizes, strict=True):
        for number in range(count):
            write(tmp_path / "pets", f"{split}/{('cat', 'dog')[number % 2]}/{number}.png", photo())
    path = {"folder": lambda path: path, "zip": zipped, "tar": tarred}[kind](tmp_path / "pets")

    dataset = load(str(path))

    assert dataset.classes == ("cat", "dog")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split.labels) for split in splits if split] == sizes


@pytest.mark.parametrize("pack", [Path, zipped, tarred])
@pytest.mark.parametrize("others", [("train", "Train", "test"), ("train", "val", "Valid")])
def test_two_folders_of_the_same_split_are_one_line(
    tmp_path: Path, pack: Callable[[Path], Path], others: tuple[str, ...]
) -> None:
    for split in others:
        for name in ("cat", "dog"):
            write(tmp_path / "pets", f"{split}/{name}/1.png", photo())
    if len(list((tmp_path / "pets").iterdir())) < 3:
        pytest.skip("the file system does not tell capitals from small letters")

    with pytest.raises(DataError, match=r"holds (Train/ and train|Valid/ and val)/, which mean the same"):
        load(str(pack(tmp_path / "pets")))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_classes_in_an_archive_may_have_folders_of_their_own(tmp_path: Path, pack: Callable[[Path, str], Path]) -> None:
    for name in ("cat/2023", "cat/2024", "dog/2023"):
        for number in range(2):
            write(tmp_path / "pets", f"{name}/{number}.png", photo())

    dataset = load(str(pack(tmp_path / "pets", "a/b/")))

    assert dataset.classes == ("cat", "dog") and len(dataset.train.labels) + len(dataset.test.labels) == 6


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    ("file", "said"),
    [("cat/1.png", r"has one class folder \(cat\); needs a folder"), ("1.png", "has no class folders")],
)
def test_an_archive_of_one_class_says_what_it_needs(
    tmp_path: Path, pack: Callable[[Path], Path], file: str, said: str
) -> None:
    write(tmp_path / "pets", file, photo())

    with pytest.raises(DataError, match=said + ".*images of each class, two or more"):
        load(str(pack(tmp_path / "pets")))


@pytest.mark.parametrize("pack", [Path, zipped, tarred])
def test_a_train_is_a_class_beside_others(tmp_path: Path, pack: Callable[[Path], Path]) -> None:
    for name in ("bus", "Train"):
        for number in range(2):
            write(tmp_path / "vehicles", f"{name}/{number}.png", photo())

    assert load(str(pack(tmp_path / "vehicles"))).classes == ("Train", "bus")


def test_a_damaged_archive_is_one_line(classes: Path) -> None:
    for path in (zipped(classes), tarred(classes)):
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"x" * 3000):
            path.write_bytes(content)
            with pytest.raises(DataError, match=f"{path.name}.*(truncated|not a zip)"):
                load(str(path))


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    photo().save(file, "PNG")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/../../2.png"):
            archive.writestr(name, file.getvalue())

    with pytest.raises(DataError, match="leads outside; refused as unsafe"):
        load(str(tmp_path / "x.zip"))


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    file = io.BytesIO()
    photo().save(file, "PNG")
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            archive.writestr(name, file.getvalue())
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag of encryption, in both headers of a member
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"a/1\.png: is encrypted; unpack the archive first"):
        load(str(path))


def test_every_damaged_image_is_counted_in_one_line(classes: Path) -> None:
    for name in ("cat/00.png", "cat/03.png", "dog/07.png"):
        (classes / name).write_bytes(b"no image")

    with pytest.raises(DataError, match=r"pets: 3 images cannot be read \(.*cat/00\.png, .*dog/07\.png\); remove"):
        load(str(classes))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("with_split", [False, True])
def test_a_table_lists_images_and_labels(classes: Path, ending: str, with_split: bool) -> None:
    rows = []
    for number, path in enumerate(sorted(classes.glob("*/*.png"))):
        split = ("train", "Training", "TESTING", "val")[number % 4] if with_split else ""
        rows.append((path.relative_to(classes).as_posix(), path.parent.name, split))
    table = classes / f"labels.{ending}"
    if ending == "jsonl":
        lines = [f'{{"file_name": "{path}", "label": "{label}", "split": "{split}"}}' for path, label, split in rows]
    else:
        lines = [{"csv": ",", "tsv": "\t"}[ending].join(row) for row in [("Path", "Class", "split"), *rows]]
    table.write_text("\n".join(lines), encoding="utf-8-sig")

    dataset = load(str(table))

    assert dataset.classes == ("cat", "dog") and dataset.name == "labels"
    if with_split:
        assert dataset.validation and len(dataset.train.labels) == 16 and len(dataset.validation.labels) == 7
    else:
        assert names(dataset) == names(load(str(classes)))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_separator_of_a_table_is_found_and_spaces_around_labels_do_not_count(
    classes: Path, separator: str, ending: str
) -> None:
    rows = [
        (path.relative_to(classes).as_posix(), path.parent.name + " " * (number % 2), "a, b")
        for number, path in enumerate(sorted(classes.glob("*/*.png")))
    ]
    table = classes / f"labels.{ending}"
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("path", " Label", "note"), *rows])

    dataset = load(str(table))

    assert dataset.classes == ("cat", "dog") and names(dataset) == names(load(str(classes)))


def test_spaces_around_labels_in_json_lines_do_not_count(classes: Path) -> None:
    rows = [
        {
            "path": path.relative_to(classes).as_posix(),
            "label": (" {}", "{}\u00a0")[number % 2].format(path.parent.name),
        }
        for number, path in enumerate(sorted(classes.glob("*/*.png")))
    ]
    (classes / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))

    assert load(str(classes / "labels.jsonl")).classes == ("cat", "dog")


def test_numbers_as_labels_are_in_the_order_of_numbers(classes: Path) -> None:
    paths = sorted(classes.glob("*/*.png"))
    rows = [f"{path.relative_to(classes)},{(2, 10)[number % 2]}" for number, path in enumerate(paths)]
    (classes / "labels.csv").write_text("\n".join(["file,label", *rows]))

    assert load(str(classes / "labels.csv")).classes == ("2", "10")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line names no column for the path"),
        ("path,kind\ncat/00.png,cat", "its first line names no column for the label; call one label or class"),
        ("path,label\ncat/00.png,", "line 2: has no label"),
        ("path,label\ncat/99.png,cat", r"line 2: cat/99\.png is not a file in"),
        (
            "path,label\ncat/00.png,cat\n" + "".join(f"cat/{number}.png,cat\n" for number in range(91, 99)),
            r"8 of its 9 paths are not files in .*: cat/91\.png, .*, cat/95\.png, \.\.\.$",
        ),
        ("path,label\ncat/00.png, ", "line 2: has no label"),
        ("path/label\ncat/00.png/cat", "its first line names no column for the path; .* commas, semicolons, tabs"),
        ("path,label,split\ncat/00.png,cat,train\ncat/01.png,cat,", "line 3: has no split, but other rows have"),
        ("path,label,split\ncat/00.png,cat,other", "line 2: split 'other'; must be train, test or validation"),
        ("path,label\ncat/00.png,cat\ncat/00.png,dog", r"lists cat/00\.png 2 times, in lines 2, 3; remove"),
        ("path,label\ncat/00.png,cat\n./cat/00.png,dog", r"lists cat/00\.png 2 times"),
        ("path,label\ndog/../cat//00.png,cat\ncat/00.png,dog", r"lists dog/\.\./cat//00\.png 2 times"),
        ("path,label\ncat/00.png,cat\ncat/01.png,cat", "has 1 class, needs two or more"),
        ("path,label,split\ncat/00.png,cat,train\ndog/01.png,dog,test", "has no train images of dog"),
    ],
)
def test_a_wrong_table_is_one_line(classes: Path, text: str, said: str) -> None:
    (classes / "labels.csv").write_text(text)

    with pytest.raises(DataError, match=rf"labels\.csv: {said}"):
        load(str(classes / "labels.csv"))


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "[" * 100_000])
def test_wrong_json_lines_are_one_line(classes: Path, text: str) -> None:
    (classes / "labels.jsonl").write_text(text)

    with pytest.raises(DataError, match=r"labels\.jsonl: line 1: is not"):
        load(str(classes / "labels.jsonl"))


def test_a_table_in_another_encoding_says_so(classes: Path) -> None:
    (classes / "labels.csv").write_bytes("path,label\nk\u00e4fer.png,k\u00e4fer".encode("latin-1"))

    with pytest.raises(DataError, match="is not UTF-8 text"):
        load(str(classes / "labels.csv"))


# ------------------------------------------------------------------------------------------------- sizes and shapes


@pytest.mark.parametrize(
    ("sides", "size"), [([], 32), ([8], 32), ([32] * 9, 32), ([63, 64, 65], 64), ([224], 128), ([47, 47, 900], 32)]
)
def test_auto_is_a_size_that_half_of_the_images_reach(sides: list[int], size: int) -> None:
    assert auto_size(sides) == size


def test_photographs_are_read_at_a_size_that_suits_them(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(4):
            write(tmp_path / "pets", f"{name}/{number}.jpg", photo((150, 100)))

    dataset = load(str(tmp_path / "pets"))

    assert dataset.frame == Frame(96, "crop") and dataset.train.images.shape[1:] == (3, 96, 96)
    assert load(str(tmp_path / "pets"), wanted=DataConfig(size=40)).test.images.shape[1:] == (3, 40, 40)


@pytest.mark.parametrize("size", [(500, 1), (1, 500)])
def test_nothing_is_left_of_a_line_that_is_padded_to_a_square(size: tuple[int, int]) -> None:
    square = np.asarray(Frame(32, "pad").of(Image.new("RGB", size, "red")))

    assert square.shape == (32, 32, 3) and (square == 128).all()


def test_what_becomes_of_a_picture_that_is_not_square() -> None:
    """Left third red, middle third green, right third blue; twice as wide as high."""
    image = Image.new("RGB", (96, 48), "lime")
    image.paste("red", (0, 0, 32, 48))
    image.paste("blue", (64, 0, 96, 48))

    crop, pad, stretch = (np.asarray(Frame(32, fit).of(image)).astype(int) for fit in ("crop", "pad", "stretch"))

    assert tuple(crop[16, 0]) == (255, 0, 0) and (crop[:, :, 0] > 128).sum() == pytest.approx(32 * 5.3, abs=32)
    assert (
        tuple(pad[0, 16]) == (128, 128, 128) and tuple(pad[16, 0]) == (255, 0, 0) and tuple(pad[16, 31]) == (0, 0, 255)
    )
    assert tuple(stretch[0, 0]) == (255, 0, 0) and (stretch[:, :, 0] > 128).sum() == pytest.approx(32 * 32 / 3, abs=40)


@pytest.mark.parametrize(("size", "fit"), [(0, "crop"), (100_000, "crop"), (32, "other"), ("32", "crop")])
def test_a_frame_that_cannot_be_is_refused(size: int, fit: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Frame(size, fit)  # type: ignore[arg-type]
