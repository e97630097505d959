"""Every command that README and documentation tell to type is one that exists, with options that exist.

They are parsed here. In test_docs_run.py they are run, with tiny networks, which takes minutes.

Not covered: `pip install` (but the extras' names), `python3 -m venv`, `curl` on the pages about serving and prediction,
the example for requests in serve.md, the one for the Hub in export.md, and the scripts for SLURM, Kubernetes and Ray in
distributed.md and faults.md, except for the calls of torchrun in them.
"""

import ast
import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import PAGES, ROOT, calls

import dynconv
from dynconv.cli.verbs import VERBS


class _ParsedError(Exception):
    """Raised where a command has understood its arguments and would begin to work."""


def problem_with(words: list[str], patch: pytest.MonkeyPatch) -> str:
    """What is wrong with the arguments of `dynconv`; nothing if they are understood."""
    module = importlib.import_module(f"dynconv.cli.{words[0]}")
    name = "parse_training" if hasattr(module, "parse_training") else "parse"
    parse = getattr(module, name)

    def only_parse(*arguments: Any) -> None:
        parse(*arguments)
        raise _ParsedError

    patch.setattr(module, name, only_parse)
    try:
        module.run(words[1:])
    except _ParsedError:
        return ""
    except dynconv.DynconvError as error:
        return str(error)
    return "its arguments were not parsed"


def test_the_commands_of_dynconv_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tiny.create(tmp_path / "run").path
    for file in ("run.yaml", "sweeps/first/best.yaml"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("epochs: 2\n")
    understood = 0
    for page, words in calls("dynconv"):
        if words[0] in ("--help", "--version") or "$@" in words:  # what a script puts there
            continue
        if page == "extending.md" and words[0] == "train":  # with what its examples register, which test_docs.py runs
            continue
        assert words[0] in VERBS, f"{page}: dynconv {shlex.join(words)}"
        if words in (["train", "--config"], ["train", "--resume"], [words[0]]) or words[-1] in ("--help", "--help-all"):
            continue  # the option or the command itself is meant, or it prints its help
        replaced = [
            str(run) if before == "--resume" else word for before, word in zip(["", *words], words, strict=False)
        ]
        replaced = ["quick" if word == "PRESET" else word for word in replaced if word != "..."]
        with monkeypatch.context() as patch:
            assert not (problem := problem_with(replaced, patch)), f"{page}: dynconv {shlex.join(words)}: {problem}"
        understood += 1
    assert understood > 60


def test_the_commands_of_torchrun_are_understood() -> None:
    from torch.distributed.run import parse_args

    for page, words in calls("torchrun"):
        if "dynconv" in words:
            known = [re.sub(r"^--nnodes=.*", "--nnodes=2", re.sub(r"=\$.*", "=8", word)) for word in words]
            arguments = parse_args(known)
            assert (arguments.module, arguments.training_script) == (True, "dynconv"), f"{page}: {words}"


def test_the_targets_of_make_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    for page, words in calls("make"):
        named = [word for word in words if "=" not in word and word != "..."]
        assert set(named) <= set(targets), f"{page}: make {shlex.join(words)}"


def test_the_options_of_the_benchmarks_exist() -> None:
    for page, words in calls("python"):
        if not words[0].startswith("benchmarks/"):
            continue
        script = ast.parse((ROOT / words[0]).read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(script) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        options = {word for word in words[1:] if word.startswith("--")}
        assert options <= texts, f"{page}: {shlex.join(words)}"


def test_the_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    for page in PAGES:
        for named in re.findall(r"(?:dynconv|\.)\[([a-z,]+)\]'", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= set(project["optional-dependencies"]), f"{page.name}: {named}"


# ------------------------------------------------------------------------------------------------------ messages


def messages_of(page: Path) -> list[str]:
    quoted = re.findall(r"^> (``? ?)(.*?)( ?``?)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [message for _, message, _ in quoted]


def patterns() -> list[re.Pattern[str]]:
    """A pattern for each text of the source with words enough to be a message; what it inserts may be anything."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if any(text is not None and not isinstance(text, str) for text in texts):
                continue
            if sum(len(text) for text in texts if text) >= 12 and (isinstance(node, ast.JoinedStr) or texts[0]):
                inserted = [
                    ".*" if text is None else re.sub(r"%(?:s|d|\.\d?f)", ".*", re.escape(text)) for text in texts
                ]
                found.append(re.compile("".join(inserted) + "$", re.DOTALL))
    return found


def test_each_message_of_the_page_is_one_that_the_source_has() -> None:
    """At its end: a message may have what it is about before it, such as a file."""
    quoted = messages_of(ROOT / "docs/troubleshooting.md")
    known = patterns()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert len(quoted) > 35
    for message in quoted:
        if message.startswith("dynconv needs Python"):
            assert "dynconv needs Python 3.11 or newer, and '" in makefile
            continue
        assert any(
            found and found.end() == len(message) and found.start() <= len(message) // 2
            for pattern in known
            if (found := pattern.search(message))
        ), message
