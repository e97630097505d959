"""Archives that claim or hold far more than CIFAR-10; memory is measured in a child."""

import gzip
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from official import PYTHON_FILES, write_archive, write_python

from dynconv.data import archive
from dynconv.data.dataset import DataError

END = bytes(1024)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def write(path: Path, pieces: Iterable[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return path


def zeros(megabytes: int) -> Iterable[bytes]:
    return (bytes(1 << 20) for _ in range(megabytes))


def pax_records() -> bytes:
    return b"".join(b"%d k%09d=%s\n" % (1024, i, b"v" * (1024 - 17)) for i in range(60))


GIGABYTE = 1 << 30
HOSTILE: dict[str, Callable[[], Iterable[bytes]]] = {
    "a long name that claims 2^40 bytes": lambda: [header("x", 2**40, b"L"), bytes(512)],
    "a long name of half a gigabyte": lambda: [header("x", GIGABYTE // 2, b"L"), *zeros(512)],
    "a pax record of half a gigabyte": lambda: [header("x", GIGABYTE // 2, b"x"), *zeros(512)],
    "a global record that claims a gigabyte": lambda: [header("x", GIGABYTE, b"g"), bytes(512)],
    "many global records": lambda: (
        [header("x", len(pax_records()), b"g") + pax_records() + bytes(-len(pax_records()) % 512)] * 3000
    ),
    "a chain of long names": lambda: [header("x", 5, b"L") + b"name\0" + bytes(507)] * 100_000,
    "a member that claims 2^40 bytes": lambda: [header("data_batch_1", 2**40), bytes(512)],
    "another member that claims 2 gigabytes": lambda: [header("readme", 2 * GIGABYTE), bytes(512)],
    "a negative size": lambda: [header("readme", -512), bytes(512)],
    "400,000 empty members": lambda: [header(f"readme{i}", 0) for i in range(20_000)] * 20,
    "more than a gigabyte of zeros at the end": lambda: [header("readme", 0), *zeros(1025)],
}


def test_an_archive_that_expands_is_refused_in_one_line_and_little_memory(tmp_path: Path) -> None:
    """All in one child, whose memory may grow by 64 MiB: importing torch takes longer than reading them."""
    paths = [write(tmp_path / f"{kind}.tar.gz", pieces()) for kind, pieces in HOSTILE.items()]
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from dynconv.data import archive, cifar10\n"
        "from dynconv.data.dataset import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "  try: archive.read(Path(path), cifar10.PYTHON_FILES)\n"
        "  except DataError as error: print(error)\n"
        "  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(paths)
    for path, said, grown in zip(paths, lines[::2], lines[1::2], strict=True):
        assert said.startswith(f"{path}: ") and said.count(str(path)) == 1
        assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 64 << 20, path


def test_names_in_extended_headers_count(tmp_path: Path) -> None:
    """Archives of other tools: a path too long for the plain header, and times with fractions."""
    folder = write_python(tmp_path / ("deep-" * 30) / "cifar-10-batches-py")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / "mine.tar.gz"
        with tarfile.open(path, "w:gz", format=form) as file:
            file.add(folder, f"{'deep-' * 30}/{folder.name}" if form != tarfile.USTAR_FORMAT else folder.name)
        found = archive.read(path, PYTHON_FILES)
        assert found == {name: (folder / name).read_bytes() for name in PYTHON_FILES}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_path_that_leads_outside_is_refused(tmp_path: Path, form: int) -> None:
    path = tmp_path / "mine.tar.gz"
    with tarfile.open(path, "w:gz", format=form) as file:
        file.addfile(tarfile.TarInfo("a/" * 100 + "../test_batch"))

    with pytest.raises(DataError, match="leads outside; refused as unsafe"):
        archive.read(path, PYTHON_FILES)


def test_terminal_sequences_of_a_name_are_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / "mine.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.addfile(tarfile.TarInfo("../\x1b[31m\n"))

    with pytest.raises(DataError, match=r"\\x1b\[31m\\n") as caught:
        archive.read(path, PYTHON_FILES)
    assert str(caught.value).isprintable()


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    """Pixels have no checksum of their own, but gzip has one, at its end."""
    whole = write_archive(tmp_path / "whole.tar.gz", write_python(tmp_path / "cifar-10-batches-py")).read_bytes()
    archive.read(tmp_path / "whole.tar.gz", PYTHON_FILES)
    for place in range(200, len(whole), len(whole) // 7):
        (tmp_path / "x.tar.gz").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"x\.tar\.gz"):
            archive.read(tmp_path / "x.tar.gz", PYTHON_FILES)


def test_plain_archives_are_read_too(tmp_path: Path) -> None:
    folder = write_python(tmp_path / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "plain.tar", "w") as file:
        file.add(folder, folder.name)

    assert archive.read(tmp_path / "plain.tar", PYTHON_FILES).keys() == set(PYTHON_FILES)
