"""Every command of dynconv that README and documentation tell to type, run by page: in blocks first, then in prose.

In place of each preset stands a tiny network, in place of CIFAR-10 and of the user's photographs a few drawn images.
"""

import functools
import importlib
import io
import itertools
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT, calls
from PIL import Image
from tiny import CONFIG

from dynconv.cli.main import main
from dynconv.data import Dataset, shapes
from dynconv.training.presets import PRESETS

pytestmark = pytest.mark.large

ELSEWHERE = {
    r"serve": "runs until it is ended: tests/serve",
    r"bench (layer|predict|serve|infer)": "measures for minutes: tests/bench, tests/export, tests/serve",
    r".*--(device cuda|resume|storage)": "needs a GPU, an interrupted run, a database: tests/training, tests/sweep",
    r"export (accurate|standard)": "needs images of CIFAR-10: tests/export",
    r".*--log (wandb|mlflow)": "needs packages of an extra: make test-logs",
    r"(evaluate|train|report|explain|describe|predict|export|sweep)( --config| --init)?$": "the command is meant",
    r"train quick --(model.gate square|optim.name rmsprop|data stripes|augment.grey)": "registered by test_docs.py",
}
"""Commands that are not run here, as patterns of what stands after `dynconv`, and where they are."""


def pages() -> dict[str, list[list[str]]]:
    """The commands to run, by page, each once."""
    found: dict[str, list[list[str]]] = {}
    for page, words in calls("dynconv"):
        text = shlex.join(words)
        if words[0].startswith("--") or "$@" in words or any(re.match(pattern, text) for pattern in ELSEWHERE):
            continue
        if words not in found.setdefault(page, []):
            found[page].append(words)
    return {page: commands for page, commands in found.items() if commands}


@functools.cache
def drawn(seed: int, train_images: int = 400, test_images: int = 200, generate: Any = shapes.generate) -> Dataset:
    return generate(seed, train_images, test_images)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained_thrice(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> list[Path]:
    """Three runs, which are one and the same but for their names."""
    folder = tmp_path_factory.mktemp("thrice")
    return [Path(shutil.copytree(trained, folder / name)) for name in ("first", "second", "third")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the files that the pages speak of, a photo in standard input, and tiny presets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapes, "generate", drawn)
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, lambda: CONFIG.model_copy(update={"epochs": 1}))
    importlib.import_module("dynconv.cli.report")  # has taken the real one, unlike `train`, which does when it ends
    monkeypatch.setattr("dynconv.report.write.write_report", lambda runs, *_, **__: runs[0] / "report.html")
    pictures = np.random.default_rng(0).integers(0, 256, (36, 40, 50, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        path = tmp_path / f"photos/{('cat', 'dog', 'owl')[index % 3]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    shutil.copytree("photos/cat", "holiday")
    for name in ("photo.jpg", "new.jpg"):
        Image.fromarray(pictures[0]).save(name)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("photo.jpg").read_bytes())))
    for folder in ("benchmarks", "runs"):
        Path(folder).mkdir()
    Path("run.yaml").write_text("preset: quick\nmodel: {experts: 3}\n", encoding="utf-8")
    text = (ROOT / "docs/sweep.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```yaml\n(preset.*?)```", text, re.DOTALL)
    for name, block in (("first.yaml", first), ("cifar10.yaml", second)):
        Path(name).write_text(re.sub(r"trials: \d+", "trials: 2\nholdout: 100", block), encoding="utf-8")


def exit_code(command: list[str]) -> int:
    try:
        return main(command)
    except SystemExit as end:  # after its help
        return int(end.code or 0)


SMALLER = {"30m": "5s", "5000": "100", "40": "2", "PATH": "shapes", "mnist": "shapes", "PRESET": "quick"}
"""What stands in a command, and what is run instead."""


def typed(words: list[str], runs: list[Path]) -> list[str]:
    """The words as a user would type them: with a run, a file and an image of their own, and data at hand."""
    given = itertools.cycle(runs)
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if before == "--model" and words[0] == "data":
            word = str(max(Path("runs").iterdir()))  # a network of the same classes, trained on the line before
        elif word == "RUN" or (re.match(r"runs/\w", word) and before != "--run"):
            word = str(next(given))
        elif word in ("FOLDER", "sweeps/first"):
            word = str(runs[0].parent)
        else:
            word = {"IMAGE": "photo.jpg", "FILE": "first.yaml"}.get(word) or SMALLER.get(word, word)
        found += map(str, runs) if word == "runs/*" else [] if word == "..." else [word]
    if words[0] == "bench":
        found += ["--allow-uncommitted"]
    if words[0] in ("train", "sweep") and "--data" not in words:
        found += ["--data", "shapes"]
    if words[0] == "train" and not {"--epochs", "--time"} & set(words):
        found += ["--epochs", "1"]
    return found


def test_what_is_run_elsewhere_is_still_on_a_page() -> None:
    commands = [shlex.join(words) for _, words in calls("dynconv")]

    assert not [pattern for pattern in ELSEWHERE if not any(re.match(pattern, command) for command in commands)]


@pytest.mark.parametrize("page", pages())
@pytest.mark.usefixtures("desk")
def test_the_commands_of_a_page_run(page: str, trained_thrice: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    for words in pages()[page]:
        command = typed(words, trained_thrice)

        assert exit_code(command) == 0, f"dynconv {shlex.join(command)}: {capfd.readouterr().err[-600:]}"
