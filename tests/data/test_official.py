"""Official layouts of other data sets, read from small files of the same make; and hostile ones."""

import gzip
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import NAMED, cifar100, idx, load, svhn
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


def write_cifar100(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training images, [N, 3072], and their fine labels."""
    folder.mkdir(parents=True)
    found = {}
    for name, count in (("train", 20), ("test", 10)):
        pixels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        coarse, fine = RNG.integers(0, 20, count), RNG.integers(0, 100, count)
        if kind == "python":
            batch = {
                "filenames": [f"x{number}.png" for number in range(count)], "batch_label": "batch 1 of 1",
                "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": pixels,
            }  # fmt: skip
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([coarse[:, None], fine[:, None], pixels], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        found[name] = (pixels, fine)
    (folder / ("meta" if kind == "python" else "fine_label_names.txt")).write_bytes(b"")
    return found["train"]


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


def write_idx(folder: Path, first: tuple[int, ...], packed: bool) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, labels in (("train", [*first, 1, 9]), ("t10k", [3, 1])):
        images[name] = RNG.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for kind, dimensions, content in (("images-idx3", images[name].shape, images[name]),
                                          ("labels-idx1", (len(labels),), np.array(labels, np.uint8))):  # fmt: skip
            data = (
                bytes((0, 0, 8, len(dimensions))) + struct.pack(f">{len(dimensions)}I", *dimensions) + content.tobytes()
            )
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return images["train"]


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


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, array: np.ndarray) -> bytes:
    """A MATLAB array; its name as a small element where it fits into four bytes."""
    small = struct.pack("<HH", 1, len(name)) + name.encode().ljust(4, b"\0")
    kind = 2 if array.dtype == np.uint8 else 9
    parts = [
        element(6, struct.pack("<II", 9 if kind == 2 else 6, 0)),
        element(5, struct.pack(f"<{array.ndim}i", *array.shape)),
        small,
        element(kind, array.tobytes(order="F")),
    ]
    return element(14, b"".join(parts))


def write_svhn(folder: Path, compressed: bool) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, count in (("train", 12), ("test", 10)):
        images[name] = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.float64)[:, None]
        arrays = [matrix("X", images[name]), matrix("y", labels)]
        if compressed:
            packed = [zlib.compress(each) for each in arrays]
            arrays = [struct.pack("<II", 15, len(each)) + each for each in packed]
        header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
        (folder / f"{name}_32x32.mat").write_bytes(header + b"".join(arrays))
    return images["train"]


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


# ------------------------------------------------------------------------------------------------------- STL-10


def write_stl10(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    images = {}
    for name, count in (("train", 11), ("test", 10)):
        images[name] = RNG.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        (folder / f"{name}_X.bin").write_bytes(images[name].transpose(0, 1, 3, 2).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(1 + number % 10 for number in range(count)))
    return images["train"]


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
