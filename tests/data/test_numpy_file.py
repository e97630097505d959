"""Files that claim or hold more than they should, and damage of every kind: one line each, and little memory."""

import io
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynconv.data import numpy_file
from dynconv.data.dataset import DataError

ZEROS = np.zeros((50, 32, 32, 3), np.uint8)


def header(shape: str, descr: str = "'|u1'", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000, 32, 32, 3)") + bytes(100),
        header("(1000000000000,)", "'|V0'"),
        header("(4, -1)") + bytes(100),
        header("(4,)", "'|O'") + bytes(100),
        header("(" * 5000),
        header("(9" + "0" * 5000 + ",)"),
        header("(10,)")[:40],
        saved(ZEROS)[:-1],
        b"\x93NUMPY\x09\x00" + bytes(200),
        b"",
    ],
)
def test_a_damaged_file_or_one_that_claims_too_much_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)

    with pytest.raises(DataError, match=r"x\.npy: truncated or not an array of numbers") as caught:
        numpy_file.load(tmp_path / "x.npy")
    assert str(caught.value).isprintable()


def archive(path: Path, content: bytes = saved(ZEROS), kind: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("images.npy", content)
    return bytearray(path.read_bytes())


def encrypted(raw: bytearray) -> bytearray:
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return raw


def unknown_compression(raw: bytearray) -> bytearray:
    raw[8] = raw[raw.index(b"PK\x01\x02") + 10] = 99
    return raw


def damaged_content(raw: bytearray) -> bytearray:
    raw[60] ^= 0xFF
    return raw


@pytest.mark.parametrize("damage", [encrypted, unknown_compression, damaged_content, lambda raw: raw[:100]])
def test_a_damaged_archive_is_one_line(tmp_path: Path, damage: Callable[[bytearray], bytearray]) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(damage(archive(path)))

    with pytest.raises(DataError, match=r"x\.npz: truncated or not an \.npz of numbers") as caught:
        numpy_file.load_archive(path, ["images"])
    assert str(caught.value).isprintable()


def test_a_flipped_pixel_fails_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    raw = archive(path, kind=zipfile.ZIP_STORED)
    raw[5000] ^= 1
    path.write_bytes(raw)

    with pytest.raises(DataError, match="CRC"):
        numpy_file.load_archive(path, ["images"])


def test_an_archive_of_zeros_is_refused_before_it_expands(tmp_path: Path) -> None:
    """500,000 images in 1.5 MB; read in a child, whose memory is measured."""
    path = tmp_path / "zeros.npz"
    shape = (500_000, 32, 32, 3)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(header(str(shape)))
        for _ in range(500):
            member.write(bytes(1000 * 3072))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from dynconv.data import numpy_file\n"
        "from dynconv.data.dataset import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: numpy_file.load_archive(Path(sys.argv[1]), ['images'])\n"
        "except DataError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    said, grown = done.stdout.splitlines()

    assert f"{path}: would expand" in said
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 64 << 20


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_arrive_as_numpy_reads_them(tmp_path: Path, version: int, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 1000, (5, 4, 3)), ">i4", order=order)  # type: ignore[call-overload]
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, array, (version, 0))
    np.savez_compressed(tmp_path / "x.npz", images=array, other=np.array(["text"]), empty=np.zeros((0, 3)))

    assert np.array_equal(numpy_file.load(tmp_path / "x.npy"), array)
    found = numpy_file.load_archive(tmp_path / "x.npz", ["images", "empty", "absent"])
    assert np.array_equal(found["images"], array) and found["empty"].shape == (0, 3) and len(found) == 2


def test_a_file_with_a_hole_is_refused_by_its_size(tmp_path: Path) -> None:
    """2 million images, 6 GB of memory, in a file that takes no place on the disk."""
    start = header("(2000000, 32, 32, 3)")
    (tmp_path / "x.npy").write_bytes(start)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(len(start) + 2_000_000 * 3072)

    with pytest.raises(DataError, match=r"x\.npy: .*6,144,000,000 bytes, more than 4,294,967,296; use fewer images"):
        numpy_file.load(tmp_path / "x.npy")
