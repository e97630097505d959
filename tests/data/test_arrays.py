from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import expansion
from dynconv.data.dataset import DataError
from dynconv.data.find import read
from dynconv.data.frame import Frame
from dynconv.data.image import from_pil

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images": RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8),
    "train-labels": np.arange(12, dtype=np.uint8) % 3,
    "test-images": RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
    "test-labels": np.arange(6, dtype=np.int64) % 3,
}


def write(folder: Path, **changes: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in {**ARRAYS, **changes}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_folder_and_npz_in_each_layout_agree(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    keras = dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS.values(), strict=True))
    keras["x_train"] = keras["x_train"].transpose(0, 3, 1, 2)
    keras["y_train"] = keras["y_train"][:, None]
    np.savez_compressed(tmp_path / "keras.npz", **keras)

    first, second = read(folder), read(tmp_path / "keras.npz")

    assert first.name == "mine" and first.classes == ("class 0", "class 1", "class 2")
    assert torch.equal(first.train.images, torch.from_numpy(ARRAYS["train-images"]).permute(0, 3, 1, 2))
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.train.labels, second.train.labels)


@pytest.mark.parametrize("extra", [(), (-1,), (1,)], ids=["no channel", "channel last", "channel first"])
def test_grey_arrays_become_rgb(tmp_path: Path, extra: tuple[int, ...]) -> None:
    grey = {name: array[..., 0] for name, array in ARRAYS.items() if array.ndim == 4}
    shaped = {name: np.expand_dims(array, extra) for name, array in grey.items()}

    found = read(write(tmp_path / "mine", **shaped))

    expected = torch.from_numpy(grey["train-images"])[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(found.train.images, expected)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("train-images", np.zeros((12, 32, 32, 3), np.float32), "must be uint8"),
        ("train-images", np.zeros((12, 32), np.uint8), "must be uint8"),
        ("train-images", np.zeros((12, 32, 32, 2), np.uint8), "must be uint8"),
        ("test-images", np.zeros((6, 3, 0, 16), np.uint8), "contains no images"),
        ("test-images", np.zeros((0, 32, 32, 3), np.uint8), "contains no images"),
        ("test-labels", np.zeros(5, np.int64), "must be 6 whole numbers"),
        ("test-labels", np.zeros(6, np.float32), "must be 6 whole numbers"),
        ("test-labels", np.full(6, -1), "labels run from -1"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, name: str, array: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path / "mine", **{name: array}))


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    file = folder / "test-images.npy"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"test-images\.npy: truncated"):
        read(folder)
    file.unlink()
    with pytest.raises(DataError, match="test-images missing"):
        read(folder)
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"a\.npz"):
        read(tmp_path / "a.npz")


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(write(tmp_path / "mine") / "test-labels.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(DataError, match=r"test-labels\.npy"):
        read(tmp_path / "mine")


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_of_another_size_become_what_they_become_elsewhere(
    tmp_path: Path, channels_last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    images = RNG.integers(0, 256, (6, 48, 60, 3), dtype=np.uint8)
    stored = images if channels_last else images.transpose(0, 3, 1, 2)

    with caplog.at_level("INFO"):
        found = read(write(tmp_path / "mine", **{"test-images": stored})).test.images

    expected = [from_pil(Image.fromarray(image), Frame()).transpose(2, 0, 1) for image in images]
    assert np.array_equal(found.numpy(), np.stack(expected)) and found.shape == (6, 3, 32, 32)
    assert caplog.messages == [f"{tmp_path / 'mine'}: the images are 60x48 pixels; each is scaled and cropped to 32x32"]


def test_tiny_images_do_not_expand_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel of three bytes would become 3,072."""
    monkeypatch.setattr(expansion, "FREE", 10_000)
    folder = write(tmp_path / "mine", **{"test-images": np.zeros((6, 1, 1, 3), np.uint8)})

    with pytest.raises(DataError, match=r"mine: would expand from 18 to 18,432 bytes, .*; lower --data\.size"):
        read(folder)
