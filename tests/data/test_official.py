"""Official layouts of other data sets, read from small files of the same make; and hostile ones."""

import gzip
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from official import MATLAB, element, matrix, write_cifar100, write_idx, write_stl10, write_svhn
from PIL import Image

from dynconv.data import NAMED, cifar100, expansion, idx, load, svhn
from dynconv.data.dataset import DataError
from dynconv.data.find import at_hand
from dynconv.data.frame import DataConfig, Frame

RNG = np.random.default_rng(0)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------- CIFAR-100


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-100 with 20 and 10 images."""
    monkeypatch.setattr(cifar100, "_SPLITS", {"train": 20, "test": 10})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_in_each_official_form(tmp_path: Path, kind: str, packed: bool) -> None:
    folder = tmp_path / f"cifar-100-{kind}"
    pixels, fine = write_cifar100(folder, kind)
    if packed:
        with tarfile.open(tmp_path / f"cifar-100-{kind}.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)

    dataset = load(str(tmp_path / f"cifar-100-{kind}.tar.gz") if packed else str(tmp_path))

    assert dataset.name == "cifar100" and len(dataset.classes) == 100 == len(set(cifar100.CLASSES))
    assert np.array_equal(dataset.train.images.numpy().reshape(20, -1), pixels)
    assert dataset.train.labels.tolist() == fine.tolist() and len(dataset.test.labels) == 10


@pytest.mark.usefixtures("small")
def test_a_damaged_cifar100_is_one_line(tmp_path: Path) -> None:
    for kind, file in (("python", "train"), ("binary", "test.bin")):
        folder = tmp_path / f"cifar-100-{kind}"
        write_cifar100(folder, kind)
        whole = (folder / file).read_bytes()
        for content in (whole[:100], b"", b"\x80\x02cos\nsystem\nq\x00."):
            (folder / file).write_bytes(content)
            assert file.removesuffix(".bin") in refused(folder)
        (folder / file).write_bytes(whole)


# ------------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("first", "name", "third"),
    [((5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "mnist", "2"), ((9, 0, 0, 3, 0, 2, 7, 2, 5, 5), "fashion-mnist", "pullover")],
)
def test_mnist_and_fashion_are_told_apart(
    tmp_path: Path, packed: bool, first: tuple[int, ...], name: str, third: str
) -> None:
    images = write_idx(tmp_path / "x" / "raw", first, packed)

    dataset = load(str(tmp_path / "x"))

    assert dataset.name == name and dataset.classes[2] == third
    assert dataset.train.images.shape == (12, 3, 32, 32) and dataset.train.labels[:10].tolist() == list(first)
    expected = np.asarray(Image.fromarray(images[0]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(dataset.train.images[0, 1].numpy(), expected)


def test_another_set_in_the_format_of_mnist_keeps_its_numbers(tmp_path: Path) -> None:
    write_idx(tmp_path / "letters", (0,) * 10, False)

    dataset = load(str(tmp_path / "letters"))

    assert dataset.name == "letters" and dataset.classes == tuple(f"class {label}" for label in range(10))


# By name: gzip writes the time into its header, so that the bytes are others in each process that collects the tests.
DAMAGED = {
    "empty": b"",
    "no gzip": b"no gzip",
    "no dimensions": gzip.compress(b"\0\0\x08"),
    "of signed bytes": gzip.compress(bytes((0, 0, 9, 1)) + bytes(20)),
    "of 2^96 images": gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12),
    "shorter than it says": gzip.compress(bytes((0, 0, 8, 1)) + b"\0\0\0\5abc"),
    "cut short": gzip.compress(bytes(10_000))[:-6],
}


@pytest.mark.parametrize("file", [f"{idx.FILES[0]}.gz", f"{idx.FILES[3]}.gz"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_idx_file_is_one_line(tmp_path: Path, file: str, damage: str) -> None:
    write_idx(tmp_path / "x", (0,) * 10, packed=True)
    (tmp_path / "x" / file).write_bytes(DAMAGED[damage])

    assert file in refused(tmp_path / "x")


# ------------------------------------------------------------------------------------------------------- SVHN


@pytest.mark.parametrize("compressed", [False, True])
def test_svhn_as_matlab_writes_it(tmp_path: Path, compressed: bool) -> None:
    images_HWCN = write_svhn(tmp_path / "svhn", compressed)

    dataset = load(str(tmp_path / "svhn"))

    assert dataset.name == "svhn" and dataset.train.labels.tolist() == [*range(1, 10), 0, 1, 2]
    assert np.array_equal(dataset.train.images.numpy(), images_HWCN.transpose(3, 2, 0, 1))


def test_a_damaged_or_hostile_svhn_is_one_line(tmp_path: Path) -> None:
    write_svhn(tmp_path / "svhn", compressed=True)
    path = tmp_path / "svhn" / svhn.FILES[0]
    whole = path.read_bytes()
    huge = whole[:128] + element(
        14, element(6, bytes(8)) + element(5, struct.pack("<4i", 32, 32, 3, 2**30)) + element(1, b"X") + element(2, b"")
    )
    for content in (
        b"",
        whole[:100],
        whole[:300],
        whole[:126] + b"MI" + whole[128:],
        huge,
        whole[:128] + b"\xff" * 64,
        whole[:128],
    ):
        path.write_bytes(content)
        assert path.name in refused(path.parent)


def test_files_that_expand_without_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of deflated zeros is a gigabyte of images."""
    monkeypatch.setattr(expansion, "FREE", 1000)
    write_svhn(tmp_path / "svhn", compressed=True)
    packed = zlib.compress(matrix("X", np.zeros((32, 32, 3, 1000), np.uint8)))
    (tmp_path / "svhn" / svhn.FILES[0]).write_bytes(MATLAB + struct.pack("<II", 15, len(packed)) + packed)
    write_idx(tmp_path / "mnist", (5, 0), packed=True)
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 4000, 28, 28)
    (tmp_path / "mnist" / f"{idx.FILES[0]}.gz").write_bytes(gzip.compress(header + bytes(4000 * 28 * 28)))

    with pytest.raises(DataError, match=rf"{svhn.FILES[0]}: .*arrays of more than"):
        load(str(tmp_path / "svhn"))
    with pytest.raises(DataError, match=rf"{idx.FILES[0]}.gz: would expand"):
        load(str(tmp_path / "mnist"))


# ------------------------------------------------------------------------------------------------------- STL-10


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_is_read_at_its_own_size(tmp_path: Path, packed: bool) -> None:
    images = write_stl10(tmp_path / "stl10_binary")
    path = tmp_path
    if packed:
        path = tmp_path / "stl10_binary.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "stl10_binary", "stl10_binary")

    dataset = load(str(path))

    assert dataset.name == "stl10" and dataset.frame.size == 96
    assert np.array_equal(dataset.train.images.numpy(), images)
    assert dataset.train.labels.tolist() == [*range(10), 0]


@pytest.mark.parametrize(
    ("file", "content"),
    [("train_X.bin", b"x" * 100), ("train_y.bin", b"\1"), ("test_y.bin", b"\0" * 10), ("test_y.bin", b"\x0b" * 10)],
)
def test_a_damaged_stl10_is_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    write_stl10(tmp_path / "stl10_binary")
    (tmp_path / "stl10_binary" / file).write_bytes(content)

    assert file in refused(tmp_path / "stl10_binary")


# ------------------------------------------------------------------------------------------------------- the rest


def test_imagenette_has_names_for_people(tmp_path: Path) -> None:
    from dynconv.data.folder import IMAGENETTE

    for split in ("train", "val"):
        for number in IMAGENETTE:
            path = tmp_path / "imagenette2-160" / split / number / "1.JPEG"
            path.parent.mkdir(parents=True)
            Image.fromarray(RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)

    dataset = load(str(tmp_path / "imagenette2-160"))

    assert dataset.name == "imagenette" and dataset.classes[:2] == ("tench", "English springer")
    assert dataset.train.labels.tolist() == list(range(10))


def test_imagenette_is_read_as_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its archive where that lies already, as after a download."""
    from dynconv.data import imagenette

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    for split in ("train", "val"):
        for number in imagenette.IMAGENETTE:
            path = tmp_path / "files" / split / number / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (40, 20), "white").save(path)
    place = tmp_path / "data" / "imagenette"
    place.mkdir(parents=True)
    with tarfile.open(place / imagenette.ARCHIVE, "w:gz") as file:
        file.add(tmp_path / "files", "imagenette2-160")
    wanted = DataConfig(size=24, fit="pad")

    found = load("imagenette", wanted=wanted)
    monkeypatch.setattr(imagenette.Official, "download", lambda _: place)
    downloaded = imagenette.imagenette(0, wanted)

    assert at_hand("imagenette")
    for dataset in (found, downloaded):
        assert dataset.frame == Frame(24, "pad") and dataset.name == "imagenette"
        assert (dataset.test.images[0, 0, 12] == 255).all() and dataset.test.images[0, 0, 0, 12] < 200, "bars above"


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_a_named_set_is_found_in_its_own_folder_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    write_idx(tmp_path / "data/mnist", (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), packed=True)
    write_svhn(tmp_path / "data/svhn", compressed=False)

    assert load(name).name == name


def test_another_named_set_in_a_shared_place_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    monkeypatch.setattr("dynconv.data.places.cache_folder", lambda: tmp_path / "cache")
    write_idx(tmp_path / "data", (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), packed=True)
    write_svhn(tmp_path / "cache", compressed=False)

    assert load("svhn").name == "svhn"


def test_each_named_set_has_the_checksums_of_its_files() -> None:
    from dynconv.data import cifar10, imagenette, stl10

    for official in (cifar10.OFFICIAL, cifar100.OFFICIAL, idx.MNIST, idx.FASHION, svhn.OFFICIAL, stl10.OFFICIAL,
                     imagenette.OFFICIAL):  # fmt: skip
        assert official.name in NAMED and official.mirrors
        assert all(len(md5) == 32 and int(md5, 16) for md5 in official.files.values())


def test_digits_are_not_mirrored(tmp_path: Path) -> None:
    from dataclasses import replace

    from dynconv.training.presets import PRESETS
    from dynconv.training.suited import suited

    dataset = replace(load("shapes"), name="svhn")

    assert suited(PRESETS["quick"](), dataset, ()).config.augment.flip == "none"
    assert suited(PRESETS["quick"](), dataset, ["augment.flip"]).config.augment.flip == "alternating"
    assert torch.equal(dataset.train.labels, load("shapes").train.labels)
