"""On a terminal, prose is broken between words; through a pipe, one message is one line."""

import contextlib
import logging
import os
import subprocess
import sys

import pytest

from dynconv import doctor
from dynconv.cli.main import main
from dynconv.cli.messages import show_messages
from dynconv.cli.verbs import VERBS

PATH = "/a/folder" * 12
LONG = "several words " * 9 + PATH + " and more words " * 9


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rich takes it; without colours, which would be part of the output."""
    for variable in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.setenv(variable, "1")


def fits(lines: list[str], width: int) -> bool:
    """Whether each line does, but for one that is a path and nothing else."""
    return all(len(line) <= width for line in lines if line.strip() != PATH)


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("words", [[], ["presets"], *([verb, "--help"] for verb in VERBS), ["train", "--help-all"]])
def test_help_is_as_wide_as_the_terminal(
    words: list[str], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with contextlib.suppress(SystemExit):
        main(words)

    lines = capsys.readouterr().out.splitlines()
    assert lines and not [line for line in lines if len(line) > width and not line.startswith("usage: ")]  # tyro's


@pytest.mark.usefixtures("on_a_terminal")
def test_a_message_is_broken_between_words_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages()
    logging.getLogger("dynconv.somewhere").warning(LONG)

    text = capsys.readouterr().err
    assert text.split() == ["warning:", *LONG.split()] and fits(text.splitlines(), 80)


def test_a_message_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages()
    logging.getLogger("dynconv.somewhere").warning(LONG)

    assert capsys.readouterr().err == f"warning: {LONG}\n"


@pytest.mark.usefixtures("on_a_terminal")
def test_what_the_doctor_finds_stays_in_its_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = doctor.Finding("a name", LONG, "look", "advice " * 30 + "end")
    monkeypatch.setattr("dynconv.cli.doctor.examine", lambda: [finding])
    assert main(["doctor"]) == 0

    found, _, advice = capsys.readouterr().out.partition("\n\nWhat to do:\n")
    first, *others = found.splitlines()
    assert first.startswith("look  a name  several") and all(line.startswith(" " * 14) for line in others)
    assert found.split() == f"look a name {LONG}".split() and fits([first, *others], 80)
    assert advice.startswith("- a name: advice") and fits(advice.splitlines(), 80)


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no pseudo-terminals; not tested: the width of an error on one"
)
def test_an_error_is_broken_between_words_on_a_terminal_alone() -> None:
    import pty

    command = [sys.executable, "-m", "dynconv", "xyzzy"]
    piped = subprocess.run(command, capture_output=True, text=True, check=False)
    ours, theirs = pty.openpty()
    subprocess.run(command, stderr=theirs, check=False)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)

    assert piped.stderr.count("\n") == 1 and len(piped.stderr) > 81
    assert shown.split() == piped.stderr.split() and fits(shown.splitlines(), 80)
