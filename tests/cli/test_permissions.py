"""Files and folders of another user: one line that names them, and nothing is left behind or left out."""

import shutil
from pathlib import Path

import pytest
from tiny import WORDS
from unprivileged import closed

from dynconv.cli.main import main


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("dynconv: error: ")
    return said.removeprefix("dynconv: error: ")


@pytest.mark.parametrize("mode", [0o000, 0o600])
@pytest.mark.parametrize("words", [["train", "--resume"], ["evaluate"], ["report"], ["predict", "x.png", "--model"]])
def test_a_run_that_cannot_be_searched(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], mode: int
) -> None:
    with closed(run, mode):
        assert refused(capsys, *words, str(run)) == f"{run}/config.yaml: cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["train", "--resume"], "config.yaml"),
        (["train", "--resume"], "environment.json"),
        (["evaluate"], "weights.safetensors"),
        (["evaluate"], "environment.json"),
    ],
)
def test_a_file_of_a_run_that_cannot_be_read(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    with closed(run / name):
        said = refused(capsys, *words, str(run))
    assert said.startswith(f"{run / name}: ") and "Permission denied" in said


def test_an_interrupted_run_whose_state_or_history_cannot_be_read_or_replaced(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").unlink()
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for path, mode in ((run / "state.pt", 0), (run / "metrics.jsonl", 0), (run, 0o500)):
        with closed(path, mode):
            said = refused(capsys, "train", "--resume", str(run))
        assert said.startswith(str(path)) and "(Permission denied)" in said
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_runs_lists_what_it_may_not_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, run.parent / "other")
    for path in (run, run / "config.yaml", run / "summary.json"):
        with closed(path):
            assert main(["runs", str(run.parent)]) == 0
        said = capsys.readouterr().out
        assert "cannot be read (Permission denied)" in said and "finished" in said, "and the other one"
    with closed(run.parent):
        assert "cannot be read (Permission denied)" in refused(capsys, "runs", str(run.parent))


@pytest.mark.parametrize("words", [["--data", "{}"], ["--config", "{}/x.yaml"], ["--run", "{}/new", *WORDS]])
def test_a_folder_that_training_may_not_enter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "theirs"
    folder.mkdir()
    with closed(folder):
        said = refused(capsys, "train", "quick", *(word.format(folder) for word in words))
    assert said.startswith(str(folder)) and "(Permission denied)" in said
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"] and not list(folder.iterdir())


@pytest.mark.parametrize("inside", ["", "train", "train/cat"])
def test_a_data_set_that_may_not_be_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Path, inside: str
) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        shutil.copy(trained / "report/loss.png", tmp_path / "images" / name / "a.png")
    folder = tmp_path / "images" / inside
    with closed(folder):
        said = refused(capsys, "data", str(tmp_path / "images"))
    assert said.startswith(str(folder)) and said.endswith(": cannot be read (Permission denied)")


def test_images_that_may_not_be_read_or_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    image = Path(shutil.copy(trained / "report/loss.png", folder / "a.png"))
    with closed(folder):
        assert refused(capsys, "predict", str(folder)) == f"{folder}: cannot be read (Permission denied)"
    with closed(folder, 0o500):
        said = refused(capsys, "predict", str(image), "--model", str(trained), "--copy-to", str(folder / "out"))
    assert said.startswith(f"{folder}/out/") and "(Permission denied)" in said
    with closed(image):
        assert main(["predict", str(image), "--model", str(trained)]) == 1
    assert f"{image}: cannot be read (Permission denied)" in capsys.readouterr().err
