"""What a sweep searches, and how: a YAML file as typed, validated values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from dynconv.errors import DynconvError
from dynconv.sweep.space import Axis, grid_size
from dynconv.training.config import TrainConfig
from dynconv.training.presets import PRESETS, merge, override
from dynconv.validation import Frozen, did_you_mean, field_descriptions, field_names, nested, validate

Metric = Literal["validation_accuracy", "validation_loss"]

_OWN = {
    "seed": "each trial has the seeds 0 to seeds - 1",
    "holdout": "holdout is a field of the sweep itself",
    "preset": "preset is a field of the sweep itself",
}
"""Fields of a run that the sweep sets."""


class Distribution(Frozen):
    """The values to search: either `low` and `high`, or `choices`."""

    low: float | None = None
    """Smallest value."""
    high: float | None = None
    """Largest value."""
    log: bool = False
    """Search the value's logarithm: as many trials from 0.01 to 0.1 as from 0.1 to 1."""
    step: float | None = Field(None, gt=0)
    """Distance between neighbouring values; 1 for whole numbers, none for others, if it is not given."""
    choices: tuple[Any, ...] = ()
    """The values themselves."""

    @field_validator("choices")
    @classmethod
    def _words_or_numbers(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        for choice in choices:
            for value in choice if isinstance(choice, list) else [choice]:
                if not isinstance(value, bool | int | float | str):
                    raise ValueError(f"must be numbers, words or lists of them, not {choice}")
        return choices

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("needs either choices, or low and high")
        if self.choices:
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices: holds a value twice")
            if self.log or self.step:
                raise ValueError("choices: take no log and no step")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("needs both low and high, low below high")
        elif self.log and (self.low <= 0 or self.step):
            raise ValueError("log: needs low above 0, and no step")
        return self


class SweepConfig(Frozen):
    """A sweep, without the fields that it searches."""

    preset: str = "quick"
    """Recipe that all trials start from: one that `dynconv presets` lists."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Fields that all trials set, as in a file for `dynconv train --config`."""
    metric: Metric = "validation_accuracy"
    """What to optimise: the accuracy on the hold-out, or the loss, of the last epoch."""
    trials: int = Field(20, ge=1, le=100_000)
    """Number of trials; with the grid sampler, by default every point of the grid."""
    seeds: int = Field(1, ge=1, le=1000)
    """Runs per trial, with the seeds from 0 upward; a trial's score is their mean."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How a trial's values are chosen. tpe: from what the earlier trials have shown. grid: every combination."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Which trials to end early. median: those worse than half of the others at the same point of their training.
    hyperband: all but the best third, at several points."""
    holdout: int = 5000
    """Training images to choose on."""
    equal_time: bool = False
    """Set each trial's epochs so that it trains for as long as the base configuration does."""

    @field_validator("preset")
    @classmethod
    def _exists(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"must be one of {', '.join(PRESETS)}, not {preset}")
        return preset

    @field_validator("holdout")
    @classmethod
    def _chooses_on_the_holdout(cls, holdout: int) -> int:
        if holdout < 1:
            raise ValueError("must be at least 1: a sweep chooses on images held out of training, not on the test set")
        return holdout


@dataclass(frozen=True)
class Sweep:
    """A whole sweep.

    Attributes:
        config: how to search.
        base: the configuration that all trials start from, with the hold-out and seed 0.
        axes: what to search.
        tta: whether runs report test-time augmentation outside the sweep, which does without the test set.
    """

    config: SweepConfig
    base: TrainConfig
    axes: tuple[Axis, ...]
    tta: bool

    @property
    def maximise(self) -> bool:
        """Whether a larger score is better."""
        return self.config.metric == "validation_accuracy"

    def trial_config(self, values: dict[str, Any], seed: int = 0, epochs: int | None = None) -> TrainConfig:
        """The configuration of a run. Raises DynconvError where the values do not fit together."""
        fields = nested(values) | {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
        return override(self.base, fields)

    def tree(self) -> dict[str, Any]:
        """All that makes two sweeps the same, as plain values for JSON."""
        config = self.config.model_dump(mode="json", exclude={"fields", "trials", "preset"})
        search = {axis.field: axis.tree() for axis in self.axes}
        return {**config, "search": search, "base": self.base.model_dump(mode="json"), "tta": self.tta}


def parse(tree: dict[str, Any], where: str = "") -> Sweep:
    """The sweep that the fields of a file describe.

    Args:
        where: the file; messages begin with it.

    Raises:
        DynconvError: one line that names the first field that is wrong, and what it accepts.
    """
    own = {str(name): value for name, value in tree.items() if name != "search"}
    if isinstance(own.get("fields"), dict):
        own["fields"] = {str(name): value for name, value in own["fields"].items()}
    config, search = validate(SweepConfig, own, where), tree.get("search")
    for name in config.fields.keys() & _OWN.keys():
        raise DynconvError(f"{where}fields: {name} cannot be set here: {_OWN[name]}")
    preset = override(PRESETS[config.preset](), config.fields, f"{where}fields: ")
    base = override(preset, {"holdout": config.holdout, "tta": False})
    if not isinstance(search, dict) or not search:
        raise DynconvError(f"{where}search: must name fields and their values, as in 'optim.lr: {{low: 0.1, high: 1}}'")
    axes = tuple(_axis(base, str(field), found, f"{where}search: ") for field, found in search.items())
    searched = [value for axis in axes if axis.field == "micro_batch" for value in axis.ends()]
    if "auto" in (base.micro_batch, *searched):
        raise DynconvError(f"{where}micro_batch: auto would be another number in each trial; give a number")
    if config.equal_time and any(axis.field == "epochs" for axis in axes):
        raise DynconvError(f"{where}search: epochs cannot be searched with equal_time, which sets them")
    if config.sampler == "grid":
        config = _whole_grid(config, axes, "trials" in tree, where)
    return Sweep(config, base, axes, preset.tta)


def _axis(base: TrainConfig, field: str, tree: Any, where: str) -> Axis:
    if field not in field_descriptions(TrainConfig):
        raise DynconvError(f"{where}{field}: there is no such field{did_you_mean(field, field_names(TrainConfig))}")
    if field in _OWN:
        raise DynconvError(f"{where}{field} cannot be searched: {_OWN[field]}")
    if not isinstance(tree, dict):
        raise DynconvError(f"{where}{field}: must be {{low: ..., high: ...}} or {{choices: [...]}}, not {tree}")
    found = validate(Distribution, tree, f"{where}{field}: ")
    try:
        axis = Axis.of(field, found.low, found.high, found.log, found.step, found.choices)
    except ValueError as error:
        raise DynconvError(f"{where}{field}: {error}") from None
    for value in axis.ends():
        _check(base, field, value, where)
    return axis


def _check(base: TrainConfig, field: str, value: Any, where: str) -> None:
    """Refuses what the field does not accept. What does not fit other fields may fit their searched values."""
    fields = nested({field: value})
    try:
        TrainConfig.model_validate(merge(base.model_dump(), fields))
    except ValidationError as error:
        for each in error.errors():
            if ".".join(part for part in each["loc"] if isinstance(part, str)) == field:
                override(base, fields, where)


def _whole_grid(config: SweepConfig, axes: tuple[Axis, ...], named: bool, where: str) -> SweepConfig:
    size = grid_size(axes)
    if math.isinf(size):
        endless = next(axis.field for axis in axes if axis.points is None)
        raise DynconvError(f"{where}search: {endless}: the grid needs choices or a step")
    if named and config.trials > size:
        raise DynconvError(f"{where}trials: the grid has {size:.0f} points, fewer than {config.trials} trials")
    return config if named else config.model_copy(update={"trials": int(size)})
