"""The searched fields: their values as the sampler draws them, and as a configuration takes them."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice, product
from typing import Annotated, Any

from pydantic import BaseModel

from dynconv.errors import DynconvError
from dynconv.training.config import TrainConfig

try:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    raise DynconvError(f"sweep: the package {package} is missing; pip install 'dynconv[sweep]'") from error


@dataclass(frozen=True)
class Axis:
    """One searched field.

    Attributes:
        field: its dotted name, such as "optim.lr".
        distribution: what the sampler draws; a list among the choices is drawn as its JSON text.
        points: all values that can be drawn, or None if there is no end of them.
    """

    field: str
    distribution: BaseDistribution
    points: tuple[Any, ...] | None
    _values: Mapping[Any, Any]
    _listed: bool

    @classmethod
    def of(
        cls, field: str, low: float | None, high: float | None, log: bool, step: float | None, choices: Sequence[Any]
    ) -> Axis:
        """An axis from low to high, or of choices. Raises ValueError if its values do not suit the field."""
        kind = _annotation(field)
        listed = typing.get_origin(kind) is tuple
        if choices:
            values = {json.dumps(each) if isinstance(each, list) else each: each for each in choices}
            return cls(field, CategoricalDistribution(tuple(values)), tuple(values), values, listed)
        assert low is not None and high is not None
        item = _plain(typing.get_args(kind)[0] if listed else kind)
        if item not in (int, float):
            raise ValueError("needs choices: its values are not numbers")
        distribution: IntDistribution | FloatDistribution
        points: tuple[float, ...] | None
        if item is int:
            if any(number % 1 for number in (low, high, step or 1)):
                raise ValueError("needs whole numbers")
            distribution = IntDistribution(int(low), int(_last(low, high, step or 1)), log=log, step=int(step or 1))
            numbers = range(distribution.low, distribution.high + 1, distribution.step)
            points = None if log else tuple(numbers)
        else:
            distribution = FloatDistribution(low, _last(low, high, step) if step else high, log=log, step=step)
            points = _points(low, high, step) if step else None
        return cls(field, distribution, points, {}, listed)

    def ends(self) -> tuple[Any, ...]:
        """The choices, or the smallest and the largest value, as a configuration takes them."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return tuple(self.value(each) for each in found.choices)
        assert isinstance(found, IntDistribution | FloatDistribution)
        return self.value(found.low), self.value(found.high)

    def value(self, drawn: Any) -> Any:
        """A drawn value as a configuration takes it."""
        value = self._values.get(drawn, drawn)
        return [value] if self._listed and not isinstance(value, list) else value

    def suggest(self, trial: Trial) -> Any:
        """Draws a value."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return trial.suggest_categorical(self.field, found.choices)
        if isinstance(found, IntDistribution):
            return trial.suggest_int(self.field, found.low, found.high, step=found.step, log=found.log)
        assert isinstance(found, FloatDistribution)
        return trial.suggest_float(self.field, found.low, found.high, step=found.step, log=found.log)

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn for the configuration to hold `value`; None if that cannot be drawn."""
        value = list(value) if isinstance(value, tuple) else value
        if isinstance(self.distribution, CategoricalDistribution):
            return next((each for each in self.distribution.choices if self.value(each) == value), None)
        number = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(number, int | float):
            return None
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        inside = self.distribution.low <= number <= self.distribution.high
        return number if (inside if self.points is None else number in self.points) else None

    def tree(self) -> dict[str, Any]:
        """The axis as plain values."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return {"choices": [self._values[each] for each in found.choices]}
        assert isinstance(found, IntDistribution | FloatDistribution)
        return {"low": found.low, "high": found.high, "log": found.log, "step": found.step}


def grid_size(axes: Sequence[Axis]) -> float:
    """The number of combinations; infinity if an axis has no end of values."""
    return math.prod(math.inf if axis.points is None else len(axis.points) for axis in axes)


def grid_point(axes: Sequence[Axis], number: int) -> dict[str, Any]:
    """The combination `number`, from 0, of what is drawn; the last axis varies fastest."""
    point = next(islice(product(*(axis.points or () for axis in axes)), number, None))
    return dict(zip((axis.field for axis in axes), point, strict=True))


def base_point(axes: Sequence[Axis], base: TrainConfig) -> dict[str, Any] | None:
    """What would have to be drawn for the base configuration; None if it lies outside of what is searched."""
    found = {axis.field: axis.drawn(_value_of(base, axis.field)) for axis in axes}
    return None if None in found.values() else found


class FixedPoint(BaseSampler):
    """Draws given values."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        self._point = point

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The given value."""
        return self._point[param_name]


def sampler_for(kind: str, number: int, axes: Sequence[Axis], base: TrainConfig) -> BaseSampler:
    """The sampler of trial `number`, from 0: seeded by it, so that a sweep by one worker can be repeated.

    The first trial is the base configuration itself, if it lies within the search: what all others are compared with.
    """
    if kind == "grid":
        return FixedPoint(grid_point(axes, number))
    if number == 0 and (point := base_point(axes, base)):
        return FixedPoint(point)
    return RandomSampler(seed=number) if kind == "random" else TPESampler(seed=number)


def _annotation(field: str) -> Any:
    """The type of a field of TrainConfig."""
    model: type[BaseModel] = TrainConfig
    *groups, leaf = field.split(".")
    for group in groups:
        model = typing.cast(type[BaseModel], model.model_fields[group].annotation)
    return model.model_fields[leaf].annotation


def _plain(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # a number, or a word such as auto
        return next((part for part in typing.get_args(kind) if part in (int, float)), kind)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _value_of(config: TrainConfig, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    return value


def _points(low: float, high: float, step: float) -> tuple[float, ...]:
    """low, low + step, ... up to high; in decimals, since 0.1 + 0.2 is not 0.3 in binary."""
    first, last, by = (Decimal(str(number)) for number in (low, high, step))
    return tuple(float(first + index * by) for index in range(int((last - first) // by) + 1))


def _last(low: float, high: float, step: float) -> float:
    return _points(low, high, step)[-1]
