from pathlib import Path
from typing import Any

import pytest
import yaml

from dynconv.cli.main import main
from dynconv.errors import DynconvError
from dynconv.sweep.config import Sweep, parse
from dynconv.sweep.space import base_point, grid_point
from dynconv.training.presets import PRESETS

LR = {"low": 0.1, "high": 1}


def of(text: str) -> Sweep:
    return parse(yaml.safe_load(text), "s.yaml: ")


def test_all_trials_share_the_fields_and_differ_in_what_is_searched() -> None:
    found = of("""
        preset: standard
        fields: {epochs: 3, model: {experts: 4}}
        search:
          optim.lr: {low: 1e-2, high: 1, log: true}
          model.experts: {choices: [1, [2, 2, 2, 2, 4, 4]]}
          model.head_hidden: {low: 0, high: 70, step: 32}
        trials: 7
    """)
    one, other = ({"optim.lr": 0.5, "model.experts": k, "model.head_hidden": 32} for k in ([1], [2, 2, 2, 2, 4, 4]))

    config = found.trial_config(one, seed=3)

    assert (config.preset, config.epochs, config.seed, config.holdout, config.tta) == ("standard", 3, 3, 5000, False)
    assert (config.optim.lr, config.model.experts, config.model.head_hidden) == (0.5, (1,), 32)
    assert config.model.widths == (64, 64, 256, 256, 256, 256) and found.base.model.experts == (4,)
    assert found.trial_config(other).model.experts == (2, 2, 2, 2, 4, 4)
    assert found.axes[2].points == (0, 32, 64) and found.axes[2].ends() == (0, 64)
    assert [found.axes[1].value(each) for each in (1, "[2, 2, 2, 2, 4, 4]")] == [[1], [2, 2, 2, 2, 4, 4]]


def test_the_grid_is_every_combination_once() -> None:
    found = of("{sampler: grid, search: {epochs: {low: 1, high: 3}, optim.lr: {low: 0.1, high: 0.3, step: 0.1}}}")

    points = [tuple(grid_point(found.axes, number).values()) for number in range(found.config.trials)]

    assert points == [(epochs, lr) for epochs in (1, 2, 3) for lr in (0.1, 0.2, 0.3)]


def test_the_base_configuration_is_a_point_of_the_search_if_it_lies_within() -> None:
    inside = of(
        "{search: {optim.lr: {low: 0.1, high: 1}, model.experts: {choices: [4, 2]}, epochs: {low: 2, high: 9}}}"
    )
    outside = of("{search: {optim.lr: {low: 0.1, high: 1}, model.experts: {choices: [4, 8]}}}")

    assert base_point(inside.axes, inside.base) == {"optim.lr": 0.17, "model.experts": 2, "epochs": 5}
    assert base_point(outside.axes, outside.base) is None


@pytest.mark.parametrize("field", ["batch_size", "micro_batch"])  # the latter may also be auto
def test_whole_numbers_are_searched_between_two(field: str) -> None:
    (axis,) = parse({"search": {field: {"low": 125, "high": 500}}}).axes

    assert axis.points is not None and axis.points[0] == 125 and axis.points[-1] == 500


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (
            {"holdout": 0},
            "holdout: must be at least 1: a sweep chooses on images held out of training, not on the test",
        ),
        ({"trails": 3}, "trails: there is no such field; did you mean trials?"),
        ({"trials": 0}, "trials: must be a whole number, at least 1, "),
        ({"metric": "test_accuracy"}, "metric: must be one of validation_accuracy, validation_loss, not test_accuracy"),
        ({"sampler": "tree"}, "sampler: must be one of tpe, random, grid, not tree"),
        ({"preset": "quik"}, f"preset: must be one of {', '.join(PRESETS)}, not quik"),
        ({"fields": {"epoch": 3}}, "fields: epoch: there is no such field; did you mean epochs?"),
        ({"fields": {"epochs": 0}}, "fields: epochs: must be a whole number, at least 1, "),
        ({"fields": {"seed": 3}}, "fields: seed cannot be set here: each trial has the seeds 0 to seeds - 1"),
        ({"fields": 3}, "fields: "),
        ({"fields": {1: 2}}, "fields: 1: there is no such field"),
        ({"search": {}}, "search: must name fields and their values, as in 'optim.lr: {low: 0.1, high: 1}'"),
        ({"search": {"optim.rate": LR}}, "search: optim.rate: there is no such field"),
        ({"search": {"router_lr": LR}}, "search: router_lr: there is no such field; did you mean optim.router_lr?"),
        ({"search": {"optim": LR}}, "search: optim: there is no such field"),
        ({"search": {"holdout": LR}}, "search: holdout cannot be searched: holdout is a field of the sweep itself"),
        ({"search": {"optim.lr": 3}}, "search: optim.lr: must be {low: ..., high: ...} or {choices: [...]}, not 3"),
        ({"search": {"optim.lr": {"low": 1}}}, "search: optim.lr: needs both low and high, low below high"),
        ({"search": {"optim.lr": {"low": 2, "high": 1}}}, "search: optim.lr: needs both low and high, low below high"),
        ({"search": {"optim.lr": {}}}, "search: optim.lr: needs either choices, or low and high"),
        ({"search": {"optim.lr": {**LR, "hihg": 1}}}, "search: optim.lr: hihg: there is no such field; did you mean h"),
        ({"search": {"optim.lr": {"low": "a", "high": 1}}}, "search: optim.lr: low: "),
        ({"search": {"optim.lr": {"low": 0, "high": 1, "log": True}}}, "search: optim.lr: log: needs low above 0"),
        ({"search": {"optim.lr": {"choices": [1, 1]}}}, "search: optim.lr: choices: holds a value twice"),
        ({"search": {"optim.lr": {"choices": [{"a": 1}]}}}, "search: optim.lr: choices: must be numbers, words or li"),
        ({"search": {"optim.lr": {"low": -1, "high": 1}}}, "search: optim.lr: must be a number, above 0, not -1"),
        ({"search": {"model.dropout": LR}}, "search: model.dropout: must be a number, at least 0, below 1, not 1"),
        ({"search": {"model.gate": {"choices": ["soft"]}}}, "search: model.gate: must be one of softmax, sigmoid"),
        ({"search": {"model.gate": LR}}, "search: model.gate: needs choices: its values are not numbers"),
        ({"search": {"epochs": LR}}, "search: epochs: needs whole numbers"),
        ({"sampler": "grid"}, "search: optim.lr: the grid needs choices or a step"),
        ({"fields": {"micro_batch": "auto"}}, "micro_batch: auto would be another number in each trial"),
        ({"search": {"micro_batch": {"choices": [50, "auto"]}}}, "micro_batch: auto would be another number in each"),
        (
            {"sampler": "grid", "trials": 4, "search": {"epochs": {"low": 1, "high": 3}}},
            "trials: the grid has 3 points, fewer than 4 trials",
        ),
        (
            {"equal_time": True, "search": {"epochs": {"low": 1, "high": 3}}},
            "search: epochs cannot be searched with eq",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_field(change: dict[str, Any], answer: str) -> None:
    with pytest.raises(DynconvError) as caught:
        parse({"search": {"optim.lr": LR}} | change, "s.yaml: ")

    assert str(caught.value).startswith(f"s.yaml: {answer}") and "\n" not in str(caught.value)


def test_values_that_only_together_fit_the_other_fields_are_not_refused() -> None:
    found = of("{search: {batch_size: {choices: [300, 600]}, micro_batch: {choices: [300, 600]}}}")

    assert found.trial_config({"batch_size": 600, "micro_batch": 300}).batch_size == 600


def test_a_file_that_is_missing_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["sweep", "no.yaml", "--data", "shapes"]) == 2

    assert "no.yaml: cannot be read (No such file" in capsys.readouterr().err and not list(tmp_path.iterdir())
