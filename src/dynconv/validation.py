"""External input -> typed values, or a one-line error that says what is wrong and what is needed.

A tree of values becomes a pydantic model. Class names are checked here, whichever file they come from.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from dynconv.errors import DynconvError, escaped, hidden

Model = TypeVar("Model", bound=BaseModel)

Fraction = Annotated[float, Field(ge=0, le=1)]

LARGEST, SMALLEST = 1e30, 1e-30
"""Range of a hyper-parameter's absolute value: well within that of float32, in which networks compute."""

_LONGEST_SHOWN = 100  # characters of a value in a message


class Frozen(BaseModel):
    """Hyper-parameters: unknown names are refused, values are immutable, and the text under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="after")
    @classmethod
    def _fits_float32(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
                raise ValueError(f"must be 0, or between {SMALLEST:g} and {LARGEST:g} in size, not {number:g}")
        return value


def validate(model: type[Model], tree: dict[str, Any], where: str = "") -> Model:
    """The model with the values of `tree`. Raises DynconvError with one line: the field and what it accepts."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        names = [part for part in first["loc"] if isinstance(part, str)]  # a number is a position in a tuple
        raise DynconvError(where + _explain(model, names, first)) from None


def _explain(model: type[BaseModel], names: list[str], error: Any) -> str:
    field = ".".join(names)
    if error["type"] in ("missing", "too_long") and isinstance(error["input"], (tuple, list)):  # so many, no others
        wanted = len(typing.get_args(_field(model, names).annotation))
        return f"{field}: must be {wanted} values, not {len(error['input'])}"
    if error["type"] == "missing":
        missing = _field(model, names)
        usage = next((mark.metavar for mark in missing.metadata if getattr(mark, "metavar", None)), field.upper())
        return f"{usage.removesuffix(' ...')} is missing: {missing.description}"
    if error["type"] == "extra_forbidden":
        return f"{_shown(field)}: there is no such field{did_you_mean(field, field_names(model))}"
    if error["type"] == "invalid_key":
        return f"{_shown(field)}: the names of fields must be strings"
    if error["type"] == "value_error":  # from our validators: a field's, or a model's, which names the field
        message = error["msg"].removeprefix("Value error, ")
        return f"{field}: {message}" if message.startswith("must be") else ".".join([*names, message])
    allowed = _range(_field(model, names)) if names and error["type"] != "too_long" else ""
    return f"{field}: must be {allowed}, not {_shown(error['input'])}" if allowed else f"{field}: {error['msg']}"


def _shown(value: object) -> str:
    """A refused value, cut where it is long: a file can hold anything."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints, or deep nesting
        return f"such a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _field(model: type[BaseModel], names: list[str]) -> FieldInfo:
    field = model.model_fields[names[0]]
    return _field(typing.cast(type[BaseModel], field.annotation), names[1:]) if names[1:] else field


def _range(field: FieldInfo) -> str:
    """What a field accepts, in words, such as "a whole number, at least 1". Empty if there is nothing to say."""
    kind, bounds = field.annotation, list(field.metadata)
    several = typing.get_origin(kind) is tuple
    if several:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Annotated:
        kind, *marks = typing.get_args(kind)
        for mark in marks:
            bounds += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    singular = {int: "a whole number", float: "a number", bool: "true or false"}
    plural = {int: "whole numbers", float: "numbers", bool: "true or false for each"}
    name = (plural if several else singular).get(typing.cast(type, kind))
    if name is None:
        return ""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(words, getattr(bound, sign)) for bound in bounds for sign, words in signs.items() if hasattr(bound, sign)]
    limits = [f"{words} {limit if isinstance(limit, int) else format(limit, 'g')}" for words, limit in found]
    return ", ".join([name, *limits])


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all fields, such as `model.experts`."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if nested:
            names += field_names(typing.cast(type[BaseModel], field.annotation), f"{prefix}{name}.")
        else:
            names.append(prefix + name.removesuffix("_"))
    return names


def field_descriptions(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The help text of every field, by its dotted name, such as "optim.lr"."""
    texts: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            texts |= field_descriptions(field.annotation, f"{prefix}{name}.")
        else:
            texts[prefix + name] = " ".join((field.description or "").split())
    return texts


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` if any of `names` resembles `name`; otherwise empty.

    Only the last dotted part is compared: lr means optim.lr, whatever else resembles it.
    """
    leaves: dict[str, list[str]] = {}
    for each in names:
        leaves.setdefault(_leaf(each), []).append(each)
    close = [_leaf(name)] if _leaf(name) in leaves else difflib.get_close_matches(_leaf(name), leaves, n=1, cutoff=0.65)
    return f"; did you mean {' or '.join(leaves[close[0]])}?" if close else ""


def _leaf(name: str) -> str:
    return name.lstrip("-").rpartition(".")[2]


def check_class_names(classes: object, where: str) -> None:
    """Checks that class names are a list or tuple of unique, printable strings that are not blank.

    Args:
        where: the file or folder that they come from; the message begins with it.

    Raises:
        DynconvError: they are not; one line that shows the offending name escaped.
    """
    if not isinstance(classes, (list, tuple)):
        raise DynconvError(f"{escaped(where)}: the class names are a {type(classes).__name__}, need a list of strings")
    seen = set()
    for number, name in enumerate(classes):
        if not isinstance(name, str):
            raise DynconvError(f"{escaped(where)}: class name {number} is a {type(name).__name__}, need a string")
        if not name.strip():
            raise DynconvError(f"{escaped(where)}: class name {number} is blank; give every class a name")
        if any(map(hidden, name)):
            raise DynconvError(f"{escaped(where)}: class name '{escaped(name)}' cannot be shown; rename the class")
        if name in seen:
            raise DynconvError(f"{escaped(where)}: class name '{name}' occurs twice; rename one of the classes")
        seen.add(name)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"experts": 4}} -> {"model.experts": 4}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.experts": 4, "epochs": 3} -> {"model": {"experts": 4}, "epochs": 3}. A value may be a tree itself.

    Raises:
        DynconvError: a field of something that is given a value as well, as in {"model": 3, "model.experts": 4}.
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        inner = tree
        for group in groups:
            if not isinstance(inner.get(group, {}), dict):
                raise DynconvError(f"{group}: is {inner[group]!r}, and {name} is given too; leave out one")
            inner[group] = dict(inner.get(group, {}))
            inner = inner[group]
        both = isinstance(value, dict) and isinstance(inner.get(leaf), dict)
        inner[leaf] = {**inner[leaf], **value} if both else value
    return tree


def shown(value: Any) -> str:
    """A hyper-parameter's value as text."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
