"""What is installed is what was tested: the lock file, with hashes, against the versions and the declared ranges."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def name_of(requirement: str) -> str:
    """A package's name as the registry compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>\[; ]", requirement, maxsplit=1)[0]).lower()


def locked() -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S+?)==(\S+)[^\n]*\\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    return {name_of(name): (version, hashes.count("--hash")) for name, version, hashes in entries}


def test_every_dependency_is_locked_in_the_tested_version_with_its_hashes() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    tested = {name_of(name): version for name, version in tested.items()}
    found = locked()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + [each for extra in project["optional-dependencies"].values() for each in extra]

    assert {name_of(each) for each in declared} - {"dynconv"} <= found.keys(), "run: make lock"
    differing = {name: version for name, (version, _) in found.items() if tested.get(name, version) != version}
    assert not differing, "run: make lock"
    assert all(hashes for _, hashes in found.values())
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert sum("==" in line and not line.startswith(("#", " ")) for line in lines) == len(found), "each has hashes"


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    text = (ROOT / "constraints-min.txt").read_text(encoding="utf-8")
    lowest = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        each
        for name, extra in project["optional-dependencies"].items()
        if name not in ("test", "dev", "docs")
        for each in extra
    ]
    declared = [each for each in project["dependencies"] + extras if not each.startswith("dynconv")]

    assert {name_of(name): version for name, version in lowest.items()} == {
        name_of(each): re.search(r">=([\d.]+)", each)[1]  # type: ignore[index]
        for each in declared
    }
