from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv.artifacts.rundir import Predictions
from dynconv.config import ModelConfig, RunConfig
from dynconv.report import compare
from dynconv.report.record import Record


def run(seed: int, accuracy: float, right: list[bool] | None = None, data: str = "cifar10", **fields: Any) -> Record:
    predictions = None
    if right is not None:
        labels = torch.zeros(len(right), dtype=torch.int64)
        sure = torch.tensor(right).float()[:, None]
        predictions = Predictions(labels, torch.cat((sure, 1 - sure), 1), ("a", "b"), data)
    config = RunConfig(preset="quick", seed=seed, **fields)
    summary = {"test_accuracy": accuracy, "test_accuracy_tta": None, "data": data}
    return Record(Path(f"run{seed}"), config, summary=summary, predictions=predictions)


def test_seeds_make_a_group_and_settings_tell_groups_apart() -> None:
    four = [run(seed, 0.9 + seed / 100) for seed in (0, 1)]
    two = [run(seed, 0.8, model=ModelConfig(experts=2)) for seed in (0, 1, 2)]

    groups = compare.group([*four, *two])

    assert [group.name for group in groups] == ["quick: experts 4", "quick: experts 2"]
    assert [group.differing for group in groups] == [{"model.experts": "4"}, {"model.experts": "2"}]
    assert [len(group.records) for group in groups] == [2, 3]
    mean, sd, n = groups[0].figure(lambda record: record.accuracy) or (0, 0, 0)
    assert (mean, sd, n) == (pytest.approx(0.905), pytest.approx(0.01 / 2**0.5), 2)
    assert groups[0].figure(lambda record: record.summary.get("test_loss")) is None


def test_groups_that_differ_by_much_are_numbered_and_the_table_says_how() -> None:
    wide = ModelConfig(widths=(32, 32, 128, 128, 128, 128), experts=8)

    groups = compare.group([run(0, 0.9), run(0, 0.9, model=wide)])

    assert [group.name for group in groups] == ["quick: configuration 1", "quick: configuration 2"]
    assert groups[1].differing["model.experts"] == "8"


def test_several_common_seeds_are_compared_pair_by_pair() -> None:
    one = [run(seed, 0.90 + seed / 100) for seed in range(3)]
    other = [run(seed, 0.91 + seed / 100 + noise, epochs=11) for seed, noise in enumerate((0.001, 0, -0.001))]

    (sentence,) = compare.tests(compare.group([*one, *other]))

    # The differences 1.1, 1.0, 0.9 points: t = 1 / (0.1 / sqrt 3) = 17.3 with 2 degrees of freedom.
    assert sentence.startswith("quick: epochs 11 against quick: epochs 10: +1.00 points")
    assert "interval +0.75 to +1.25" in sentence and "p = 0.0033" in sentence


def test_two_single_runs_are_compared_image_by_image() -> None:
    first = run(0, 0.5, [True] * 10 + [False] * 10)
    second = run(0, 0.9, [True] * 9 + [False] + [True] * 9 + [False], epochs=11)

    (sentence,) = compare.tests(compare.group([first, second]))

    assert "9 images won, 1 lost of 20" in sentence and "p = 0.021" in sentence


def test_runs_on_different_data_are_not_compared() -> None:
    assert compare.tests(compare.group([run(0, 0.5, [True, False]), run(0, 0.9, [True, True], data="shapes")])) == []
