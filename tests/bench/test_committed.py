"""Figures are tied to the commit that was measured: in a checkout of its own that holds this package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dynconv

CODE = """
import sys
from pathlib import Path
from dynconv.artifacts.commit import git_commit, require_committed
written = [Path(word) for word in sys.argv[1:]]
print(git_commit(*written))
require_committed(*written)
print("allowed")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed repository with the package under src/, and a file of figures."""
    if shutil.which("git") is None:
        pytest.skip("no git: apt install git; not tested: that figures name the commit that was measured")
    heavy = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(Path(str(dynconv.__file__)).parent, tmp_path / "src/dynconv", ignore=heavy)
    (tmp_path / "figures.json").write_text("{}")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True, env=clean)
    return done.stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "state")


def ask(folder: Path, *written: str) -> tuple[list[str], str]:
    """What is printed, and the last line of the error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", CODE, *written],
        cwd=folder, env={**clean, "PYTHONPATH": str(folder / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split(), (done.stderr.strip().splitlines() or [""])[-1]


def test_only_a_committed_tree_is_measured(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked").write_text("x")
    assert ask(checkout) == ([head, "allowed"], "")

    (checkout / "figures.json").write_text("[]")
    assert ask(checkout, "figures.json", str(checkout.parent / "elsewhere.json")) == ([head, "allowed"], "")
    printed, error = ask(checkout)
    assert printed == [f"{head}-dirty"]
    assert "uncommitted changes (figures.json)" in error and "--allow-uncommitted" in error

    with (checkout / "src/dynconv/errors.py").open("a") as file:
        file.write("# changed\n")
    assert "uncommitted changes (src/dynconv/errors.py)" in ask(checkout, "figures.json")[1]

    commit(checkout)
    assert ask(checkout) == ([git(checkout, "rev-parse", "HEAD"), "allowed"], "")


def test_outside_a_checkout_nothing_is_refused(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")

    assert ask(checkout) == (["None", "allowed"], "")
