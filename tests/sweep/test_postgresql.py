"""A sweep whose trials a real PostgreSQL records, for workers that share no folder."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweeps import FIELDS, found

from dynconv.artifacts.rundir import RunDir

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
    Path(path).parent for path in [shutil.which("pg_ctl")] if path
]
pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL here (Debian: apt install postgresql)"),
]


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database, on a server of its own."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_user: list[str] = []
    if os.geteuid() == 0:  # for whom it refuses to run
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *words: str) -> None:
        with (folder.parent / f"{folder.name}.log").open("a") as log:  # a server inherits it, so it must not be a pipe
            subprocess.run(
                [*as_user, str(PROGRAMS[-1] / program), "-D", str(folder / "data"), *words],
                stdout=log, stderr=log, cwd="/", check=True,
            )  # fmt: skip

    try:
        run("initdb", "--no-sync", "--auth=trust", "--username=me")
        run("pg_ctl", "--wait", "-o", f"-p {port} -h 127.0.0.1 -k {folder}", "start")
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "--mode=immediate", "stop")
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.log").unlink()


def test_of_two_workers_one_is_killed(write: Callable[..., Path], images: Path, database: str, tmp_path: Path) -> None:
    """Its trial is trained again by the other one, and counted once."""
    file = write({"optim.lr": {"low": 0.05, "high": 0.4}}, trials=4, sampler="random", fields={**FIELDS, "epochs": 40})
    places = [tmp_path / name / "sweep" for name in ("here", "there")]
    for place in places:
        place.parent.mkdir()
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "dynconv", "sweep", str(file), "--data", str(images), "--device", "cpu",
             "--output", str(place), "--storage", database],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for place in places
    ]  # fmt: skip
    while not list(places[0].glob("trial-*/state-before.pt")) or not list(places[1].glob("trial-*/state-before.pt")):
        assert [worker.poll() for worker in workers] == [None, None], workers[0].communicate()
        time.sleep(0.01)
    workers[0].kill()
    workers[0].communicate()  # else it counts as alive, though it is dead
    (killed,) = [path.name for path in places[0].glob("trial-*")]
    output, _ = workers[1].communicate()

    assert workers[1].returncode == 0, output
    (tmp_path / "sweep").symlink_to(places[1])
    trials = found(file)["trials"]
    assert [each["state"] for each in trials] == ["complete"] * 4 and len({each["score"] for each in trials}) > 1
    assert [run for each in trials for run in each["runs"] if run.startswith(killed)] == [f"{killed}-attempt2"]
    for path in places[1].glob("trial-*"):
        run = RunDir.open(path)
        assert [line.step for line in run.metrics().steps] == list(range(1, 401))
