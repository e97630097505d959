"""A tree of values -> a pydantic model, or one line that names the field that is wrong and what it takes."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dynconv.errors import DynconvError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], tree: dict[str, Any], where: str = "") -> Model:
    """The model with the values of `tree`. Raises DynconvError: one line, the field and what it takes."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        names = [part for part in first["loc"] if isinstance(part, str)]  # a number is the place in a tuple
        raise DynconvError(where + _explain(model, names, first)) from None


def _explain(model: type[BaseModel], names: list[str], error: Any) -> str:
    field = ".".join(names)
    if error["type"] == "missing":
        return f"{field.upper()} is missing: {_field(model, names).description}"
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such field{did_you_mean(field, field_names(model))}"
    if error["type"] == "value_error":  # our own validators name the field themselves
        return ".".join([*names, error["msg"].removeprefix("Value error, ")])
    allowed = _range(_field(model, names)) if names else ""
    return f"{field}: must be {allowed}, not {error['input']}" if allowed else f"{field}: {error['msg']}"


def _field(model: type[BaseModel], names: list[str]) -> FieldInfo:
    field = model.model_fields[names[0]]
    return _field(typing.cast(type[BaseModel], field.annotation), names[1:]) if names[1:] else field


def _range(field: FieldInfo) -> str:
    """What a field takes, in words: "a whole number, at least 1". Empty where there is nothing to say."""
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
    plural = {int: "whole numbers", bool: "true or false for each"}
    name = (plural if several else singular).get(typing.cast(type, kind))
    if name is None:
        return ""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(words, getattr(bound, sign)) for bound in bounds for sign, words in signs.items() if hasattr(bound, sign)]
    limits = [f"{words} {limit if isinstance(limit, int) else format(limit, 'g')}" for words, limit in found]
    return ", ".join([name, *limits])


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all fields, `model.experts` and so on."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if nested:
            names += field_names(typing.cast(type[BaseModel], field.annotation), f"{prefix}{name}.")
        else:
            names.append(prefix + name.removesuffix("_"))
    return names


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where one of `names` resembles `name`, else nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
