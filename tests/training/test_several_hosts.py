"""Two hosts, each with a network stack and a name of its own, train the network that one process would."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from together import TRAINING, losses, output_of, wait_for_steps

from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main

pytestmark = pytest.mark.large

ALONE = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--uts"]
"""Namespaces that a user may make without being root."""

TWO_HOSTS = r"""
set -e
printf '127.0.0.1 localhost\n10.77.0.1 first\n10.77.0.2 second\n' > "$1"
mount --bind "$1" /etc/hosts
hostname first
ip link set lo up
unshare --net --uts sleep infinity &
second=$!
trap 'kill $second' EXIT
until [ "$(readlink /proc/$second/ns/uts)" != "$(readlink /proc/self/ns/uts)" ]; do sleep 0.1; done
on_second() { nsenter --target $second --net --uts "$@"; }
on_second hostname second
on_second ip link set lo up
ip link add cable type veth peer name cable netns $second
ip addr add 10.77.0.1/24 dev cable
ip link set cable up
on_second ip addr add 10.77.0.2/24 dev cable
on_second ip link set cable up
echo $$ $second
cat  # until its input ends
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[str]]:
    """The numbers of two processes, one on each host. The hosts share the file system."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs Linux's unshare, nsenter and ip, and the right to use them; not tested: several hosts")
    with subprocess.Popen(
        [*ALONE, "sh", "-c", TWO_HOSTS, "sh", str(tmp_path / "hosts")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as keeper:  # fmt: skip
        assert keeper.stdout
        yield keeper.stdout.readline().split()


def start(host: str, run: Path) -> subprocess.Popen[str]:
    """torchrun on a host; the first one is where both meet."""
    into = ["nsenter", "--target", host, "--user", "--preserve-credentials", "--mount", "--net", "--uts"]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3",
        "--rdzv-backend=c10d", "--rdzv-endpoint=first:29400", "--rdzv-id=job1", "-m", "--", "dynconv",
    ]  # fmt: skip
    words = [*TRAINING, "--checkpoint-minutes", "1e-9", "--run", str(run)]
    # torch's default is to share one store over all restarts; a host that comes back waits in it for an address that
    # the others, who know it already, do not write again.
    environ = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        [*into, *launcher, *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=run.parent,
    )


def lose_power(torchrun: subprocess.Popen[str]) -> None:
    """Everything that runs on a host is gone at once."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(torchrun.pid), *children], check=True)
    torchrun.communicate()


def test_two_hosts_of_which_one_is_lost_and_comes_back(tmp_path: Path, hosts: list[str]) -> None:
    assert main([*TRAINING, "--run", str(tmp_path / "alone")]) == 0
    run = tmp_path / "run"
    first, second = (start(host, run) for host in hosts)
    try:
        wait_for_steps(run, 7, first)
        lose_power(second)
        second = start(hosts[1], run)
        ends = [output_of(each) for each in (first, second)]
    finally:
        first.kill()
        second.kill()

    Path("/tmp/ends1").write_text(ends[1])
    assert first.returncode == second.returncode == 0, ends
    summary = RunDir.open(run).summary()
    assert summary and summary.finished
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), abs=2e-3)
    assert "".join(ends).count("test accuracy on shapes") == 1
