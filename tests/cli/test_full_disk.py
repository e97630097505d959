"""A disk that is full, at whatever write: one line, nothing lost, nothing half-written.

The kernel's limit on the size of a file makes every write beyond it fail, for any user and on any file system.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import WORDS

from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")

ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$SIZE" tmpfs "$DISK" || exit 77
"$PYTHON" -m dynconv train quick "$@" --run "$DISK/run"; echo "exit $?" >&2
mount -o remount,size=64m "$DISK"
"$PYTHON" -m dynconv train --resume "$DISK/run" --no-report; echo "exit $?" >&2
cp -R "$DISK/run" "$KEPT"
"""
"""For a shell: trains on a file system of its own that fills up, and goes on once it has room again."""

LIMITED = """
import json, resource, signal, sys
from dynconv.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
for number, words in enumerate(json.loads(sys.argv[2])):
    print(f"exit {main(words)} of {number}", file=sys.stderr)
"""


def limited(size: int, *commands: list[str]) -> list[tuple[int, str]]:
    """Runs commands with which no file can grow beyond `size` bytes. For each: exit code, and what it says."""
    words = [sys.executable, "-c", LIMITED, str(size), json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found, said = [], ""
    for line in done.stderr.splitlines(keepends=True):
        if line.startswith("exit "):
            found.append((int(line.split()[1]), said))
            said = ""
        else:
            said += line
    assert len(found) == len(commands), done.stderr
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts}


def losses(run: Path) -> list[float]:
    return [line.loss for line in RunDir.open(run).metrics().steps]


LARGE = pytest.mark.large


@pytest.mark.parametrize(
    "size", [0, 3_000, *(pytest.param(size, marks=LARGE) for size in (300, 8_000, 20_000, 60_000))]
)
def test_training_ends_with_one_line_and_can_go_on(tmp_path: Path, trained: Path, size: int) -> None:
    run = tmp_path / "run"
    ((code, said),) = limited(size, ["train", "quick", *WORDS, "--run", str(run)])

    assert "Traceback" not in said, said
    assert said.count("dynconv: error: ") == (code == 2), said
    assert not list(run.glob(".*.partial"))
    if code == 2:
        assert "cannot be written (File too large)" in said or (size == 0 and "no folder for temporary files" in said)
    if not (run / "config.yaml").exists():  # nothing has begun
        return
    if RunDir.open(run).summary() is None:
        assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert losses(run) == losses(trained)


@pytest.mark.parametrize("size", ["16k", pytest.param("120k", marks=LARGE)])
def test_training_on_a_disk_that_fills_up_can_go_on(tmp_path: Path, trained: Path, size: str) -> None:
    """Unlike a limit on the size of a file, a full disk leaves nothing for the files that come after.

    It is full at the first state, and at the metrics after the second.
    """
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare --user --mount is not there or not permitted; not tested: a disk that fills up")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    places = {"DISK": str(disk), "KEPT": str(kept), "SIZE": size, "PYTHON": sys.executable}
    words = [*alone, "sh", "-c", ON_A_SMALL_DISK, "sh", *WORDS]
    done = subprocess.run(words, env=os.environ | places, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(f"{done.stderr.strip()}; not tested: a disk that fills up")

    first, _, rest = done.stderr.partition("exit 2\n")
    assert first.count("dynconv: error: ") == 1 and "No space left on device" in first, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert rest.endswith("exit 0\n"), rest
    assert losses(kept) == losses(trained)


@LARGE
def test_what_writes_into_files_leaves_none_half_written(tmp_path: Path, trained: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "report")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    outputs = tmp_path / "outputs"
    commands = [
        ["report", str(run)],
        ["report", str(run), "--output", str(outputs / "report")],
        ["explain", str(run), str(tmp_path / "red.png"), "--output", str(outputs)],
        ["predict", str(tmp_path / "red.png"), "--model", str(run), "--copy-to", str(outputs / "by-class")],
        ["export", str(run), "--format", "pt2"],
        ["export", str(run), "--format", "onnx"],
        ["export", str(run), "--format", "onnx", "--int8"],
    ]
    before = files(run)

    for words, (code, said) in zip(commands, limited(20, *commands), strict=True):
        assert code in (1, 2) and "Traceback" not in said, f"{words}: {said}"
        assert "cannot be written (File too large)" in said, f"{words}: {said}"
    assert files(run) == before
    assert not [path for path in outputs.rglob("*") if path.is_file()]


def test_a_disk_that_fails_while_it_is_read_is_not_called_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/mnt/gone/state.pt")

    monkeypatch.setattr("dynconv.cli.presets.run", failing)
    monkeypatch.setattr("dynconv.cli.main._write_nothing_more", lambda: None)

    assert main(["presets"]) == 2
    said = "/mnt/gone/state.pt: the disk or the connection to it has failed (Input/output error)"
    assert capsys.readouterr().err == f"dynconv: error: {said}\n"


def test_standard_output_on_a_full_device(trained: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "dynconv", "runs", str(trained.parent)]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "dynconv: error: a file, or standard output: cannot be written (No space left on device); free some space"
    ]
