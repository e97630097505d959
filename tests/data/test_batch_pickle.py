"""Pickles that try to crash the reader, to exhaust the memory, or to reach NumPy. Crashes are tested in a child."""

import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from official import batch

from dynconv.data import batch_pickle
from dynconv.data.bounded_pickle import BoundedUnpickler, StandIn
from dynconv.data.dataset import DataError

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
UINT8 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR"
UINT8_STATE = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = RECONSTRUCT + b"(cnumpy\nndarray\n(K\x00tX\x01\x00\x00\x00btR"

CRASH = bytes.fromhex(
    "636e756d70792e636f72652e6d756c746961727261790a5f7265636f6e7374727563740a7102636e756d70790a6e6461727261790a7104635f63"
    "6f646563730a656e636f64650a7105580100000062636e756d70790a64747970650a710d58020000007531898887710f52284b03580100000011"
    "4e4affffffff4affffffff4b0074711262"
)
"""Gives a real dtype a state that makes NumPy read where it must not: the process dies."""


def load_in_a_child(folder: Path, content: bytes) -> tuple[int, str, int]:
    """Exit code, what was said, and peak memory in bytes."""
    (folder / "batch").write_bytes(content)
    code = (
        "import resource, sys\n"
        "from dynconv.data import batch_pickle\n"
        "from dynconv.data.dataset import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: batch_pickle.load('batch', open(sys.argv[1], 'rb').read())\n"
        "except DataError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "batch")], capture_output=True, text=True)
    *said, grown = done.stdout.splitlines() or ["0"]
    return done.returncode, "\n".join(said) + done.stderr, int(grown) * (1 if sys.platform == "darwin" else 1024)


def test_a_state_that_crashes_numpy_never_reaches_it(tmp_path: Path) -> None:
    code, said, _ = load_in_a_child(tmp_path, CRASH)

    assert code == 0 and said.startswith("batch: truncated or damaged")


@pytest.mark.parametrize(
    "content",
    [
        b"}N" + b"\x85" * 390_000 + b"Ns.",
        b"}(N" + b"\x85" * 390_000 + b"Nu.",
        b"(N" + b"\x85" * 390_000 + b"Nd.",
        b"\x8f(N" + b"\x85" * 390_000 + b"\x90.",
        b"(N" + b"\x85" * 390_000 + b"\x91.",
    ],
    ids=["setitem", "setitems", "dict", "set", "frozenset"],
)
def test_deep_tuples_that_would_be_hashed_do_not_exhaust_the_stack(tmp_path: Path, content: bytes) -> None:
    code, said, _ = load_in_a_child(tmp_path, content)

    assert code == 0 and said.startswith("batch: truncated or damaged")


@pytest.mark.parametrize(
    "content",
    [
        b"]" * 30_000_000 + b".",  # a list of 56 bytes for each byte of the file
        b"\x96" + struct.pack("<Q", 3 << 30) + b".",  # a bytearray of a claimed length
        b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",  # a memo for two thousand million objects
        b"c_codecs\nencode\nq\x00X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01X\x06\0\0\0latin1q\x02"
        + b"h\x00h\x01h\x02\x86R" * 3000 + b".",  # 3,000 times the same megabyte
    ],
    ids=["lists", "bytearray", "memo", "encode"],
)  # fmt: skip
def test_memory_grows_with_the_file_and_no_further(tmp_path: Path, content: bytes) -> None:
    code, said, grown = load_in_a_child(tmp_path, content)

    assert code == 0 and said.startswith("batch: ") and said.count("\n") == 0
    assert grown < len(content) * 3 + (300 << 20)


@pytest.mark.parametrize(
    "content",
    [
        UINT8 + b"(K\x03X\x01\0\0\0>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb.",  # another byte order
        UINT8 + b"}b.",
        b"c_codecs\nencode\n}X\x01\0\0\0aK\x01sb.",  # attributes for a function
        b"c_codecs\nencode\n(NX\x0c\0\0\0__defaults__NtX\0\0\0\0b.",
        ARRAY + b"(K\x01(K\x02K\x02t" + UINT8 + UINT8_STATE + b"\x89C\x03abctb.",  # four elements of three bytes
        ARRAY + b"(K\x01(J\xff\xff\xff\xffK\xfdt" + UINT8 + UINT8_STATE + b"\x89C\x03abctb.",
        ARRAY + b"(K\x01K\x03" + UINT8 + UINT8_STATE + b"\x89C\x03abctb.",
        ARRAY + b"(K\x01(K\x03tN\x89C\x03abctb.",
        b"cnumpy\nndarray\n(K\x03tR.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\ndtype\n(X\x01\0\0\0OK\0K\x01tR.",
    ],
)
def test_whatever_a_batch_does_not_need_is_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^batch: [^\n]*$"):
        batch_pickle.load("batch", content)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("python2", [False, True])
def test_arrays_arrive_as_they_were(fortran: bool, python2: bool) -> None:
    content = batch(0)
    data = np.asarray(content["data"], order="F" if fortran else "C")
    pickled = pickle.dumps({**content, "data": data}, protocol=2)
    if python2:  # bytes as a plain string, which protocol 2 of Python 2 has
        raw = data.tobytes("A")
        state = b"(K\x01(K\x14M\x00\x0ct" + UINT8 + UINT8_STATE + (b"\x88" if fortran else b"\x89")
        labels = pickle.dumps(content["labels"], protocol=2)[2:-1]
        array = ARRAY + state + b"T" + struct.pack("<I", len(raw)) + raw + b"tb"
        pickled = b"\x80\x02}(U\x06labels" + labels + b"U\x04data" + array + b"u."

    images, labels_read = batch_pickle.load("batch", pickled)

    assert np.array_equal(images, content["data"]) and labels_read == content["labels"]  # type: ignore[arg-type]


def test_the_state_reached_nothing_of_ours() -> None:
    """No file can leave something behind in the process: stand-ins take no attributes."""
    with pytest.raises(DataError):
        batch_pickle.load("batch", b"c_codecs\nencode\n}X\x01\0\0\0aK\x01sb.")

    images, _ = batch_pickle.load("batch", pickle.dumps(batch(1), protocol=2))
    assert np.array_equal(images, batch(1)["data"])  # type: ignore[arg-type]


@pytest.mark.parametrize("fill", [b"K\x00K\x01s.", b"(K\x00K\x01u."])  # SETITEM, SETITEMS
def test_only_dicts_are_filled_with_keys(fill: bytes) -> None:
    """Python would write into any object that has places, such as an array."""
    places = [0, 0]

    class Unpickler(BoundedUnpickler):
        known: ClassVar = {("m", "t"): StandIn(lambda: places)}

    with pytest.raises(ValueError, match="other than a dict"):
        Unpickler(b"cm\nt\n)R" + fill, 100).load()
    assert places == [0, 0]
