import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv.artifacts.state import load_state, save_state
from dynconv.errors import DynconvError

STATE: dict[str, Any] = {
    "epochs": 3,
    "seconds": 1.5,
    "net": OrderedDict(a=torch.ones(2), b=torch.zeros((), dtype=torch.int64)),
    "optimizers": [{"state": {0: {"momentum_buffer": torch.ones(2, 3).mT}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
    "average": None,
}


def test_states_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, STATE)
    loaded = load_state(path)
    assert (loaded["epochs"], loaded["seconds"], loaded["average"]) == (3, 1.5, None)
    assert torch.equal(loaded["net"]["a"], torch.ones(2)) and loaded["net"]["b"].dtype == torch.int64
    assert loaded["optimizers"][0]["state"][0]["momentum_buffer"].shape == (3, 2)
    assert loaded["optimizers"][0]["param_groups"] == [{"betas": (0.9, 0.99)}]

    save_state(path, loaded)
    assert load_state(path).keys() == loaded.keys(), "and can be saved again"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DynconvError, match="damaged, or not a training state"):
        load_state(path)
    path.unlink()
    with pytest.raises(DynconvError, match="missing, so the run cannot be resumed"):
        load_state(path)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, STATE)
    whole = path.read_bytes()
    place = whole.index(struct.pack("<2f", 1, 1))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])

    with pytest.raises(DynconvError, match="damaged, or not a training state"):
        load_state(path)


@pytest.mark.parametrize(
    "content",
    [
        [], 3, None, {"format": "x"}, {**STATE, "format": torch.ones(2)},
        {"format": 0, **STATE}, {**STATE, "epochs": -1}, {**STATE, "epochs": True},
        {**STATE, "epochs": 1.5}, {**STATE, "seconds": float("nan")}, {**STATE, "seconds": -1.0}, {**STATE, "net": [1]},
        {**STATE, "net": {"a": 1}}, {**STATE, "net": {1: torch.ones(1)}}, {**STATE, "optimizers": None},
        {**STATE, "optimizers": [None]}, {**STATE, "optimizers": [{"state": None}]}, {**STATE, "average": {"a": 1}},
        {name: value for name, value in STATE.items() if name != "epochs"},
    ],
)  # fmt: skip
def test_what_is_no_state_is_damaged(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "state.pt")

    with pytest.raises(DynconvError, match="damaged, or not a training state"):
        load_state(tmp_path / "state.pt")


def write_zip(path: Path, pickle: bytes, content: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Path:
    """What torch.save would write for a tree with this pickle, and one storage."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", content)
    return path


def tensor(size: bytes, stride: bytes) -> bytes:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(" + size + b"t(" + stride + b"t\x89NtR"


def test_a_state_cannot_crash_the_process_or_exhaust_its_memory(tmp_path: Path) -> None:
    """`torch.load` dies of the first of these, and takes gigabytes for the next two; in a child, which is measured."""
    files = [
        write_zip(tmp_path / "deep", b"\x80\x02}N" + b"\x85" * 400_000 + b"Ns."),
        write_zip(tmp_path / "lists", b"\x80\x02" + b"]" * 50_000_000 + b"."),
        write_zip(tmp_path / "zeros", tensor(b"J\0\0\0\x10", b"K\1") + b".", bytes(1 << 30), zipfile.ZIP_DEFLATED),
        write_zip(tmp_path / "expanded", tensor(b"J\xff\xff\xff\x7f", b"K\0") + b".", bytes(4)),
        write_zip(tmp_path / "outside", tensor(b"K\1", b"K\1").replace(b"QK\0", b"QK\5") + b".", bytes(4)),
        write_zip(tmp_path / "state of a tensor", tensor(b"K\1", b"K\1") + b"(K\1K\1K\1K\1tb.", bytes(4)),
    ]
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from dynconv.artifacts.state import load_state\n"
        "from dynconv.errors import DynconvError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "  try: load_state(Path(path))\n"
        "  except DynconvError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in said] == list(map(str, files))
    assert all("damaged, or not a training state (ValueError)" in line for line in said[:-2]), said
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 400 << 20


def test_a_state_of_a_newer_version_says_so(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "state.pt")

    with pytest.raises(DynconvError, match="format 99, newer than this dynconv can read"):
        load_state(tmp_path / "state.pt")


def test_a_state_is_not_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    torch.save({"epochs": Harmful()}, tmp_path / "state.pt")

    with pytest.raises(DynconvError, match="refused as unsafe"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "owned").exists()


def test_a_directory_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DynconvError, match="cannot be written"):
        save_state(tmp_path / "none" / "state.pt", {})
