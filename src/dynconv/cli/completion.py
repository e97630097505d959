"""`dynconv completion`: a script that completes words in a shell, without starting Python."""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tyro.conf import Positional

from dynconv.artifacts.found_weights import DEFAULT, PACKAGED
from dynconv.cli.parse import Arguments, parse
from dynconv.cli.verbs import VERBS
from dynconv.data import NAMED
from dynconv.data.find import AUTO
from dynconv.layer.routing import GATES
from dynconv.training.presets import PRESETS

Shell = Literal["bash", "zsh", "fish"]


class CompletionArguments(Arguments):
    """Completes commands, presets, options and their values. Print it again after an upgrade. To install it:

    dynconv completion bash > ~/.local/share/bash-completion/completions/dynconv

    dynconv completion zsh > ~/.zfunc/_dynconv   (with fpath+=~/.zfunc before compinit in ~/.zshrc)

    dynconv completion fish > ~/.config/fish/completions/dynconv.fish
    """

    shell: Annotated[Positional[Shell], tyro.conf.arg(metavar="{bash,zsh,fish}")]
    """Which shell."""


def run(words: Sequence[str]) -> int:
    """Prints the script."""
    arguments = parse(CompletionArguments, words, "completion")
    commands = {verb: [Word("--help", "Show all options"), *_words(_arguments_of(verb))] for verb in VERBS}
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell](commands))
    return 0


# ------------------------------------------------------------------------------------------ what can be completed


@dataclass(frozen=True)
class Word:
    """An option, or what may stand in place of a positional argument.

    Attributes:
        flag: such as `--model.experts`; empty for a positional argument.
        text: what it is, in a few words.
        values: those that can be listed.
        takes: how many values: none, one or several.
        files: whether a value may be a path.
    """

    flag: str
    text: str
    values: tuple[str, ...] = ()
    takes: Literal["none", "one", "several"] = "none"
    files: bool = False


Commands = dict[str, list[Word]]


def _arguments_of(verb: str) -> type[Arguments]:
    found: type[Arguments] = getattr(importlib.import_module(f"dynconv.cli.{verb}"), f"{verb.capitalize()}Arguments")
    return found


_POSITIONAL = typing.get_args(Positional[int])[1]


def _words(model: type[BaseModel], prefix: str = "") -> list[Word]:
    found: list[Word] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            embedded = name in ("settings", "launch")  # whose fields have no prefix on the command line
            found += _words(kind, "" if embedded else f"{prefix}{name}.")
        elif not (name == "preset" and "seed" in model.model_fields):  # which is a positional argument
            found += _words_of(prefix, name, field)
    return found


def _words_of(prefix: str, name: str, field: FieldInfo) -> list[Word]:
    text = re.split(r"(?<=[.;:]) ", " ".join((field.description or "").split()))[0].rstrip(".;:")[:80]
    flag = f"--{prefix}{name.removesuffix('_')}".replace("_", "-")
    if field.annotation is bool:
        before, _, last = flag.rpartition(".")
        other = f"{before}.no-{last}" if before else f"--no-{flag[2:]}"
        return [Word(flag, text), Word(other, f"Not: {text}")]
    kind, several = _bare(field.annotation), typing.get_origin(field.annotation) is tuple
    values = tuple(map(str, typing.get_args(kind))) if typing.get_origin(kind) is Literal else _KNOWN.get(name, ())
    if kind is bool:
        values = ("true", "false")
    files = kind is Path or name in ("data", "source", "init", "images")
    if field.default == Path(DEFAULT) or name == "init":
        values = PACKAGED
    return [Word("" if _POSITIONAL in field.metadata else flag, text, values, "several" if several else "one", files)]


_KNOWN = {"preset": tuple(PRESETS), "data": (AUTO, *NAMED), "source": (AUTO, *NAMED), "gate": tuple(GATES)}
"""Values of fields that also take others."""


def _bare(kind: Any) -> Any:
    """The type of one value: int of `int | None`, of `tuple[int, ...]` and of `Annotated[int, ...]`."""
    while typing.get_origin(kind) in (Annotated, typing.Union, UnionType, tuple):
        kind = typing.get_args(kind)[0]
    return kind


# ---------------------------------------------------------------------------------------------------- the scripts


def _bash(commands: Commands) -> str:
    """Readline completes file names by itself where nothing is found (`-o default`)."""
    cases = []
    for verb, words in commands.items():
        options = [word for word in words if word.flag]
        cases += [
            f"        {verb})",
            f'            flags="{" ".join(word.flag for word in options)}"',
            f'            bare="{" ".join(value for word in words if not word.flag for value in word.values)}"',
            "            case $option in",
        ]
        for takes in ("one", "several"):
            if plain := [word.flag for word in options if word.takes == takes and not word.values]:
                cases.append(f"                {'|'.join(plain)}) takes={takes} ;;")
        cases += [
            f'                {word.flag}) takes={word.takes} values="{" ".join(word.values)}" ;;'
            for word in options
            if word.values
        ]
        cases += ["            esac ;;"]
    return _BASH.format(verbs=" ".join(commands), cases="\n".join(cases))


_BASH = """\
# Completes the words of dynconv in bash. Made by: dynconv completion bash
_dynconv() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} at=$((COMP_CWORD - 1)) away=1 option= flags= bare= takes= values=
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$word"))
        return
    fi
    [[ $word == = ]] && word=
    while ((at > 1)) && [[ ${{COMP_WORDS[at]}} != --* ]]; do
        [[ ${{COMP_WORDS[at]}} == = ]] || away=$((away + 1))
        at=$((at - 1))
    done
    ((at > 1)) && option=${{COMP_WORDS[at]}}
    [[ ${{COMP_WORDS[COMP_CWORD]}} == = ]] && away=1
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
    elif [[ $takes == several || ($takes == one && $away == 1) ]]; then
        COMPREPLY=($(compgen -W "$values" -- "$word"))
    else
        COMPREPLY=($(compgen -W "$bare" -- "$word"))
    fi
}}
complete -o bashdefault -o default -F _dynconv dynconv"""


def _zsh(commands: Commands) -> str:
    cases = []
    for verb, words in commands.items():
        options = [word for word in words if word.flag]
        bare = [word for word in words if not word.flag]
        cases += [f"    {verb})", "      flags=("]
        cases += [f"        {_quoted(_described(word.flag, word.text))}" for word in options]
        cases += [
            "      )",
            f"      bare=({' '.join(value for word in bare for value in word.values)})",
            f"      files={int(any(word.files for word in bare))}",
            "      case $option in",
        ]
        cases += [
            f"        {word.flag}) takes={word.takes} values=({' '.join(word.values)}) files={int(word.files)} ;;"
            for word in options
            if word.takes != "none"
        ]
        cases += ["      esac ;;"]
    verbs = "\n".join(f"      {_quoted(_described(verb, VERBS[verb][1]))}" for verb in commands)
    return _ZSH.format(verbs=verbs, cases="\n".join(cases))


_ZSH = """\
#compdef dynconv
# Completes the words of dynconv in zsh. Made by: dynconv completion zsh
_dynconv() {{
  local -a verbs flags bare values
  local option= takes= word at=$((CURRENT - 1)) away=1 files=0
  if ((CURRENT == 2)); then
    verbs=(
{verbs}
    )
    _describe -t commands command verbs
    return
  fi
  while ((at > 2)) && [[ $words[at] != --* ]]; do ((at--, away++)); done
  ((at > 2)) && option=$words[at]
  if compset -P '--*='; then option=${{IPREFIX%=}} away=1; fi
  case $words[2] in
{cases}
  esac
  if [[ $takes == one && $away == 1 ]] || [[ $takes == several && $PREFIX != -* ]]; then
    compadd -a values
    ((files)) && _files
  elif [[ $PREFIX == -* ]]; then
    _describe -o -t options option flags
  else
    compadd -a bare
    ((files)) && _files
  fi
  return 0
}}
if [[ $funcstack[1] == _dynconv ]]; then _dynconv "$@"; else compdef _dynconv dynconv; fi"""


def _fish(commands: Commands) -> str:
    """Of an option with several values, fish completes the first."""
    lines = [
        "# Completes the words of dynconv in fish. Made by: dynconv completion fish",
        "function __dynconv_command",
        "    set -l words (commandline -opc)",
        '    test (count $words) -gt 1; and test "$words[2]" = "$argv[1]"',
        "end",
        "complete -c dynconv -f",
    ]
    for verb, words in commands.items():
        text = _quoted(VERBS[verb][1])
        lines.append(f"complete -c dynconv -n 'test (count (commandline -opc)) -eq 1' -a {verb} -d {text}")
        for word in words:
            start = f"complete -c dynconv -n '__dynconv_command {verb}'"
            option = f" -l {word.flag[2:]}" if word.flag else ""
            form = {"none": "", "one": " -x", "several": " -x"}[word.takes] if word.flag else ""
            if word.files:
                form = " -r -F" if word.flag else " -F"
            values = f" -a {_quoted(' '.join(word.values))}" if word.values else ""
            lines.append(f"{start}{option}{form}{values} -d {_quoted(word.text)}")
    return "\n".join(lines)


def _described(word: str, text: str) -> str:
    """As `_describe` of zsh wants it."""
    return word.replace(":", r"\:") + ":" + text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
