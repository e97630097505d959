"""The words that a shell completes: all that exist, and in a moment, because no Python is started."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dynconv.cli.main import main
from dynconv.cli.verbs import VERBS
from dynconv.training.presets import PRESETS

Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Script:
    def write(shell: str) -> Path:
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
        return tmp_path / shell

    return write


def output(*command: str) -> list[str]:
    """What a shell prints that finds no other program."""
    shell = shutil.which(command[0])
    assert shell
    return subprocess.run(
        [shell, *command[1:]], capture_output=True, text=True, check=True, env={"PATH": "", "HOME": "/nonexistent"}
    ).stdout.split()


def in_bash(script: Path, *words: str) -> list[str]:
    line = " ".join(f"'{word}'" for word in ("dynconv", *words))
    return output(
        "bash", "--norc", "-c",
        f'. {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _dynconv; printf "%s\\n" "${{COMPREPLY[@]}}"',
    )  # fmt: skip


def in_zsh(script: Path, *words: str) -> list[str]:
    """With stand-ins for the functions of zsh's completion system, which only work at a prompt."""
    line = " ".join(f"'{word}'" for word in ("dynconv", *words))
    stand_ins = """
        compdef() { :; }
        _describe() { local one; for one in ${(P)@[-1]}; do [[ $one == $PREFIX* ]] && print -r -- ${one%%:*}; done; }
        compadd() { local one; for one in ${(P)2}; do [[ $one == $PREFIX* ]] && print -r -- $one; done; }
        _files() { print FILES; }
        compset() { [[ $PREFIX == --*=* ]] && IPREFIX=${PREFIX%%=*}= PREFIX=${PREFIX#*=}; }
    """
    return output(
        "zsh", "-f", "-c",
        f'{stand_ins}; . {script}; words=({line}); CURRENT={len(words) + 1}; PREFIX="$words[-1]"; _dynconv; true',
    )  # fmt: skip


def in_fish(script: Path, *words: str) -> list[str]:
    program = f"source {script}; complete -C 'dynconv {' '.join(words)}' | while read -d \\t one rest; echo $one; end"
    return output("fish", "--no-config", "-c", program)


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_presets_options_and_values_are_completed(shell: str, script: Script) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed; not tested: completion in it")
    complete, made = SHELLS[shell], script(shell)

    def completed(*words: str) -> set[str]:
        return set(complete(made, *words)) - {"FILES"}

    assert completed("") >= set(VERBS) and completed("tr") == {"train"}
    assert completed("train", "") >= set(PRESETS) and completed("describe", "sta") == {"standard"}
    assert completed("train", "quick", "--model.exp") == {
        "--model.experts", "--model.expert-dilations", "--model.expert-kernel-sizes",
    }  # fmt: skip
    assert completed("train", "--precision", "") == {"auto", "bf16", "fp16", "fp32"}
    if shell != "fish":  # which knows options of one value only
        assert completed("train", "--model.residual", "true", "f") == {"false"}
    assert completed("serve", "--backend", "onnx") == {"onnxruntime"}
    assert completed("bench", "la") == {"layer"}
    assert completed("completion", "") == set(SHELLS)
    assert completed("train", "--no-rep") == {"--no-report"}
    assert completed("serve", "--no-rep") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_value_after_an_equals_sign_is_completed(shell: str, script: Script) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed; not tested: completion in it")
    words = ("--precision", "=", "b") if shell == "bash" else ("--precision=b",)  # bash takes the sign for a word

    assert SHELLS[shell](script(shell), "train", *words) == ["bf16"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_are_those_of_the_help(
    verb: str, script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = script("fish").read_text()
    with pytest.raises(SystemExit):
        main([verb, "--help-all"])
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[│ ]+(-h, )?--[a-z]", line)]
    shown = {
        flag for line in lines for flag in re.findall(r"--[a-z][\w.-]*", re.split(r" {2,}|\{|[A-Z]{3,}", line[2:])[0])
    }

    found = re.findall(rf"'__dynconv_command {verb}' -l (\S+)", text)

    assert {f"--{flag}" for flag in found} == shown and len(found) == len(shown)


def test_an_unknown_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "one of bash, zsh, fish, not tcsh" in capsys.readouterr().err
