from pathlib import Path
from typing import Any

import pytest
import torch
from summaries import SUMMARY

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import Config
from dynconv.model.config import ModelConfig
from dynconv.report import compare
from dynconv.report.record import RunRecord


def run(seed: int, accuracy: float, right: list[bool] | None = None, data: str = "cifar10", **fields: Any) -> RunRecord:
    predictions = None
    if right is not None:
        labels = torch.zeros(len(right), dtype=torch.int64)
        sure = torch.tensor(right).float()[:, None]
        predictions = Predictions(labels, torch.cat((sure, 1 - sure), 1), ("a", "b"), data)
    usual = {"preset": "quick", "epochs": 10, "image_sizes": (32,), "tta": False, "model": ModelConfig(experts=4)}
    config = Config(**{**usual, "seed": seed, **fields})
    summary = SUMMARY.model_copy(update={"test_accuracy": accuracy, "data": data, "seed": seed})
    return RunRecord(Path(f"run{seed}"), config, summary=summary, predictions=predictions)


def test_seeds_make_a_group_and_settings_tell_groups_apart() -> None:
    four = [run(seed, 0.9 + seed / 100) for seed in (0, 1)]
    two = [run(seed, 0.8, model=ModelConfig(experts=2)) for seed in (0, 1, 2)]

    groups = compare.group([*four, *two])

    assert [group.name for group in groups] == ["quick: experts 4", "quick: experts 2"]
    assert [group.differing for group in groups] == [{"model.experts": "4"}, {"model.experts": "2"}]
    assert [len(group.records) for group in groups] == [2, 3]
    mean, sd, n = groups[0].figure(lambda summary: summary.test_accuracy) or (0, 0, 0)
    assert (mean, sd, n) == (pytest.approx(0.905), pytest.approx(0.01 / 2**0.5), 2)
    assert groups[0].figure(lambda summary: summary.test_accuracy_tta) is None


def test_fields_that_this_version_does_not_know_tell_groups_apart_too() -> None:
    groups = compare.group([run(0, 0.9, augment={"cutout": 0}), run(0, 0.9, augment={"cutout": 8})])

    assert [group.differing for group in groups] == [{"augment.cutout": "0"}, {"augment.cutout": "8"}]


def test_groups_that_differ_by_much_are_numbered_and_the_table_says_how() -> None:
    wide = ModelConfig(widths=(64, 64, 256, 256, 256, 256), experts=8)

    groups = compare.group([run(0, 0.9), run(0, 0.9, model=wide)])

    assert [group.name for group in groups] == ["quick: configuration 1", "quick: configuration 2"]
    assert groups[1].differing["model.experts"] == "8"


def test_several_common_seeds_are_compared_pair_by_pair() -> None:
    one = [run(seed, 0.90 + seed / 100) for seed in range(3)]
    other = [run(seed, 0.91 + seed / 100 + noise, epochs=11) for seed, noise in enumerate((0.001, 0, -0.001))]

    (sentence,) = compare.verdicts(compare.group([*one, *other]))

    # The differences 1.1, 1.0, 0.9 points: t = 1 / (0.1 / sqrt 3) = 17.3 with 2 degrees of freedom.
    assert sentence.startswith("quick: epochs 11 against quick: epochs 10: +1.00 points")
    assert "interval +0.75 to +1.25" in sentence and "p = 0.0033" in sentence


def test_two_common_seeds_are_too_few_for_an_interval() -> None:
    one, other = ([run(seed, accuracy + seed * step, epochs=epochs) for seed in range(2)]
                  for accuracy, step, epochs in ((0.5, 0.1, 10), (0.6, 0.2, 11)))  # fmt: skip

    (sentence,) = compare.verdicts(compare.group([*one, *other]))

    assert sentence.endswith("+15.00 points over 2 common seeds; n is too small for an interval.")


def test_two_single_runs_are_compared_image_by_image() -> None:
    first = run(0, 0.5, [True] * 10 + [False] * 10)
    second = run(0, 0.9, [True] * 9 + [False] + [True] * 9 + [False], epochs=11)

    (sentence,) = compare.verdicts(compare.group([first, second]))

    assert "9 images won, 1 lost out of 20" in sentence and "p = 0.021" in sentence


def test_runs_on_different_data_are_not_compared() -> None:
    assert compare.verdicts(compare.group([run(0, 0.5, [True, False]), run(0, 0.9, [True, True], data="shapes")])) == []
