"""The words after a subcommand -> a pydantic model of its arguments, or a one-line error.

tyro splits the words and writes `--help`; only pydantic converts and validates the values, so that a value from
the command line and one from a YAML file get the same error message.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import BaseModel, ConfigDict
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from dynconv.cli.terminal import filled
from dynconv.cli.verbs import HELP, HELP_ALL, VERBS
from dynconv.errors import DynconvError
from dynconv.validation import did_you_mean, field_names, validate

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{true,false}"}

_SYNONYMS = {
    "address": ("--host",),
    "cpu": ("--device cpu",),
    "cuda": ("--device cuda",),
    "gpu": ("--device cuda",),
    "k": ("--model.experts", "--experts"),
    "learning-rate": ("--optim.lr",),
    "num-epochs": ("--epochs",),
    "out": ("--output", "--run"),
    "pretrained": ("--init", "--model"),
    "val-split": ("--holdout",),
    "weights": ("--init", "--model"),
}
"""Everyday words, and the options that may be meant; the first that a command has is suggested."""

Model = TypeVar("Model", bound=BaseModel)


class Arguments(BaseModel):
    """The arguments of a subcommand. Its help shows the class's docstring, and under each option the field's text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def parse(model: type[Model], words: Sequence[str], verb: str) -> Model:
    """The values of `words`; prints help and raises SystemExit(0) if they ask for it, with --help or --help-all.

    Raises:
        DynconvError: an unknown option, or a value that its field does not accept.
    """
    tree, unknown = read_words(model, words, verb)
    refuse_unknown(unknown, model)
    return validate(model, tree)


def refuse_unknown(unknown: list[str], model: type[BaseModel]) -> None:
    """Raises DynconvError if `unknown` holds any word; the error names the nearest option."""
    if not unknown:
        return
    word = next((word for word in unknown if word.startswith("-")), None)
    if word is None:
        raise DynconvError(f"unexpected argument {unknown[0]!r}")
    # Embedded models have no name of their own on the command line.
    names = [name.removeprefix("settings.").removeprefix("launch.") for name in field_names(model)]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    raise DynconvError(f"no option {word}{_suggestion(word.partition('=')[0], flags)}")


def _suggestion(word: str, flags: list[str]) -> str:
    """`; did you mean X?`, where an option resembles the word or is known by another one that does; otherwise empty."""
    bare = word.lstrip("-").lower().replace("_", "-")
    known = {name: option for name, options in _SYNONYMS.items() if (option := _first(options, flags))}
    resembling = did_you_mean(word, flags)
    close = [bare] if bare in known else [] if resembling else difflib.get_close_matches(bare, known, n=1, cutoff=0.8)
    return f"; did you mean {known[close[0]]}?" if close else resembling


def _first(options: Sequence[str], flags: Collection[str]) -> str | None:
    return next((option for option in options if option.split()[0] in flags), None)


# ----------------------------------------------------------------------------------------- the words, by tyro


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether the words ask for help instead of a run."""
    return not set(HELP).isdisjoint(words)


def read_words(
    model: type[BaseModel], words: Sequence[str], verb: str, short: Collection[str] | None = None, **defaults: Any
) -> tuple[dict[str, Any], list[str]]:
    """The words as a tree of strings, with defaults for absent ones; and the words that were not understood.

    Args:
        short: the options that --help shows, by the last part of their names; --help-all shows all. By default both do.
    """
    said = io.StringIO()
    about = inspect.getdoc(model)
    if HELP_ALL in words or not asks_for_help(words):
        short = None
    if short is not None:
        about = f"{about}\n\nThese are the options used most; --help-all shows all."
    if asks_for_help(words):
        print(f"{filled(VERBS[verb][1])}\n\n{filled(about or '')}\n")
    words = ["--help" if word == HELP_ALL else word for word in words]
    fields = model.model_fields.items()
    default = {name: field.get_default() for name, field in fields if not field.is_required()}
    try:
        with contextlib.redirect_stderr(said):
            answer: Any = tyro.cli(
                model,
                args=list(words),
                prog=f"dynconv {verb}",
                description="",  # it would print it unwrapped
                default=default | defaults,
                registry=_registry(short),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro's own errors, such as an option without its value: joins the lines of its box into one.
        lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()[1:]]
        raise DynconvError(" ".join(lines[: lines.index("")] if "" in lines else lines)) from None
    tree, unknown = answer
    required = {name for name, field in fields if field.is_required()}
    return {name: value for name, value in tree.items() if value is not None or name not in required}, unknown


def _registry(short: Collection[str] | None) -> ConstructorRegistry:
    """Makes tyro pass the words on unchanged, for pydantic to validate; of all options only `short`, if it is given."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        return None if info.type is bool else _words(info.type)

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
            return None
        hints = typing.get_type_hints(info.type, include_extras=True)
        default = info.default if isinstance(info.default, dict) else dict(info.default)
        fields = []
        for name, field in info.type.model_fields.items():
            if name == "preset" and "seed" in info.type.model_fields:  # TrainConfig's; it is a positional argument
                continue
            if short is not None and not _is_shown(field.annotation, name, short):
                continue
            value, kind = default.get(name), hints[name]
            if value is None:  # no "(default: None)"; pydantic reports what is missing
                bare, *marks = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
                kind = Annotated[(bare | None, *marks, tyro.conf.arg(help_behavior_hint=""))]
            fields.append(StructFieldSpec(name, kind, value, " ".join((field.description or "").split())))
        return StructConstructorSpec(_tree, tuple(fields))

    return registry


def _is_shown(kind: Any, name: str, short: Collection[str]) -> bool:
    """Whether an option, or any of a group, is one of `short`. Names of fields differ between the groups shown."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return any(_is_shown(field.annotation, inner, short) for inner, field in kind.model_fields.items())
    return name in short


def _tree(**values: Any) -> dict[str, Any]:
    return values


def _words(kind: Any) -> PrimitiveConstructorSpec[Any] | None:
    several = typing.get_origin(kind) is tuple
    item = typing.get_args(kind)[0] if several else kind
    while typing.get_origin(item) in (Annotated, typing.Union, types.UnionType):  # int | None -> int
        item = typing.get_args(item)[0]
    if typing.get_origin(item) is Literal:
        metavar = "{" + ",".join(map(str, typing.get_args(item))) + "}"
    elif item in _METAVARS:
        metavar = _METAVARS[item]
    else:
        return None
    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=metavar + " ..." if several else metavar,
        instance_from_str=(lambda words: words) if several else (lambda words: words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(part) for part in value] if several else [str(value)],
    )
