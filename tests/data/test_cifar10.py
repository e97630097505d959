import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official import PER_FILE, PYTHON_FILES, batch, write_archive, write_binary, write_python

from dynconv.data import archive, cifar10
from dynconv.data.dataset import DataError
from dynconv.data.find import read


@pytest.fixture(autouse=True)
def small_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_cifar10" not in request.fixturenames:
        monkeypatch.setattr(cifar10, "_PER_FILE", PER_FILE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_python(tmp_path / "cifar-10-batches-py")


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rewrite(file: Path, **changes: object) -> None:
    file.write_bytes(pickle.dumps({**batch(0), **changes}, protocol=2))


@pytest.mark.large
def test_the_real_images_are_the_same_in_every_form(real_cifar10: Callable[[str], Path]) -> None:
    """Same pixels and labels from all four; the official class names, 6,000 images of each."""
    forms = [read(real_cifar10(layout)) for layout in ("python", "binary", "tar", "npy")]

    for dataset in forms:
        assert dataset.name == "cifar10" and dataset.classes == cifar10.CLASSES
        assert dataset.train.images.shape == (50_000, 3, 32, 32) and dataset.test.images.shape == (10_000, 3, 32, 32)
        assert dataset.train.labels.bincount().tolist() == [5000] * 10
        assert dataset.test.labels.bincount().tolist() == [1000] * 10
        assert torch.equal(dataset.train.images, forms[0].train.images)
        assert torch.equal(dataset.test.labels, forms[0].test.labels)
    # By eye once, for good: frogs are green, and sky and sea are blue. A swap of channels or axes would show here.
    blueness = [dataset_mean(forms[0].train, label, 2) - dataset_mean(forms[0].train, label, 0) for label in range(10)]
    assert {int(i) for i in np.argsort(blueness)[-2:]} == {cifar10.CLASSES.index(name) for name in ("airplane", "ship")}


def dataset_mean(split: object, label: int, channel: int) -> float:
    images = split.images[split.labels == label][:500, channel]  # type: ignore[attr-defined]
    return float(images.float().mean())


def test_python_and_binary_and_archives_agree(tmp_path: Path, folder: Path) -> None:
    binary = write_binary(tmp_path / "cifar-10-batches-bin")
    paths = [
        folder,
        binary,
        write_archive(tmp_path / "cifar-10-python.tar.gz", folder),
        write_archive(tmp_path / "mine.tgz", binary),
        tmp_path,  # which holds them all
    ]
    first = read(folder)

    assert first.train.images.shape == (5 * PER_FILE, 3, 32, 32)
    assert torch.equal(first.train.images[0].flatten(), torch.from_numpy(batch(0)["data"][0]))  # type: ignore[index]
    assert first.test.labels.tolist() == batch(5)["labels"]
    for path in paths[1:]:
        assert torch.equal(read(path).train.images, first.train.images), path
        assert torch.equal(read(path).test.labels, first.test.labels), path


def test_hidden_and_foreign_files_are_passed_over(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "._data_batch_1").write_bytes(b"\0")
    (folder / "readme.html").write_text("hello")

    assert len(read(folder).train.labels) == 5 * PER_FILE


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_does_not_run(folder: Path, tmp_path: Path, protocol: int) -> None:
    (folder / "data_batch_3").write_bytes(pickle.dumps({**batch(0), "x": Malicious(tmp_path / "owned")}, protocol))

    text = refused(folder)

    assert "data_batch_3" in text and "system" in text and "unsafe" in text
    assert not (tmp_path / "owned").exists()


def test_arrays_of_objects_and_outside_references_are_refused(folder: Path) -> None:
    rewrite(folder / "data_batch_2", data=np.array([{"a": 1}], dtype=object))
    assert "data_batch_2" in refused(folder)

    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.persistent_id = lambda thing: "outside" if thing == "x" else None  # type: ignore[method-assign]
    pickler.dump({"x": "x"})
    (folder / "data_batch_2").write_bytes(stream.getvalue())
    assert "data_batch_2" in refused(folder)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -1])
def test_a_truncated_batch_is_named(folder: Path, kept: int) -> None:
    content = (folder / "data_batch_4").read_bytes()
    (folder / "data_batch_4").write_bytes(content[:kept])

    assert "data_batch_4" in refused(folder)


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_truncated_binary_batch_is_named(tmp_path: Path, kept: int) -> None:
    folder = write_binary(tmp_path / "cifar-10-batches-bin")
    (folder / "test_batch.bin").write_bytes((folder / "test_batch.bin").read_bytes()[:kept])

    assert "test_batch.bin" in refused(folder)


def test_missing_batches_are_named(folder: Path) -> None:
    for name in ("data_batch_2", "test_batch"):
        (folder / name).unlink()

    assert "data_batch_2, test_batch missing" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": np.zeros((PER_FILE, 100), np.uint8)}, "must be uint8"),
        ({"data": "text"}, "images are str"),
        ({"labels": [10] * PER_FILE}, "labels run from 10 to 10"),
        ({"labels": [-1] * PER_FILE}, "labels run from -1"),
        ({"labels": [0] * (PER_FILE - 1)}, "has 19 labels"),
        ({"labels": [0.5] * PER_FILE}, "not a list of whole numbers"),
        ({"labels": 3}, "not a list of whole numbers"),
    ],
)
def test_wrong_content_is_named(folder: Path, changes: dict[str, object], reason: str) -> None:
    rewrite(folder / "data_batch_5", **changes)

    text = refused(folder)
    assert "data_batch_5" in text and reason in text


def test_cifar100_is_not_taken_for_cifar10(folder: Path) -> None:
    content = batch(0)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": content["data"], "fine_labels": content["labels"]}))

    assert "data_batch_1: has no 'data' and 'labels'" in refused(folder)


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, folder: Path) -> None:
    for name, kind in (("../test_batch", tarfile.REGTYPE), ("/test_batch", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
        path = write_archive(tmp_path / "cifar-10-python.tar.gz", folder)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, folder.name)
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)

        text = refused(path)
        assert str(path) in text and f"{name!r}" in text and "unsafe" in text


def test_an_archive_with_a_batch_twice_is_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "a")
        archive.add(folder, "b")

    assert "twice" in refused(path)


def test_a_damaged_or_foreign_archive_is_named(tmp_path: Path, folder: Path) -> None:
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", folder)
    whole = path.read_bytes()
    for content in (b"", b"<html>not found</html>", whole[:1000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert str(path) in refused(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("other"))
    assert "none of the expected files" in refused(path)


def test_all_six_batches_are_needed_from_an_archive_too(tmp_path: Path, folder: Path) -> None:
    (folder / "data_batch_1").unlink()

    text = refused(write_archive(tmp_path / "cifar-10-python.tar.gz", folder))
    assert "data_batch_1 missing" in text and len(PYTHON_FILES) == 6


def test_a_batch_file_of_absurd_size_is_not_read(folder: Path) -> None:
    with (folder / "data_batch_2").open("r+b") as file:
        file.truncate(archive.LARGEST_BATCH + 1)  # takes no room on disk

    assert f"data_batch_2: has {archive.LARGEST_BATCH + 1:,} bytes" in refused(folder)
