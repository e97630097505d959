"""Studies: arms are configurations that exist, runs are kept, and the tables of the docs are those of the runs."""

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tiny import CONFIG

from dynconv.training.presets import PRESETS, merge, override

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in (BENCHMARKS / "studies").glob("*.yaml"))


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The scripts, which import each other as scripts do."""
    sys.path.insert(0, str(BENCHMARKS))
    names = ("study", "figures", "mistakes")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(BENCHMARKS))
    for name in names:
        del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_is_a_configuration_and_is_compared_with_another(name: str, modules: dict[str, ModuleType]) -> None:
    study = modules["study"].Study(name)
    mistakes = modules["mistakes"].MISTAKES

    for arm in study.arms.values():
        for fields in (arm.fields, arm.mirrored or {}):
            override(PRESETS[study.preset](), merge(study.common, fields), f"{name}: ")
        assert study.factors or arm.reference in study.arms
        assert not arm.mistake or arm.mistake in mistakes


def test_screening_finds_every_factors_own_effect(
    tmp_path: Path, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules["study"], "STUDIES", tmp_path)
    rates = [f"optim-{number}" for number in range(15)]
    tree = {"preset": "quick", "factors": {rate: {rate: 1.0} for rate in rates}}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    study = modules["study"].Study("many", tmp_path)
    with study.collected.open("w") as file:
        for (name, arm), seed in itertools.product(study.arms.items(), (0, 1)):
            at_other = arm.mirrored if seed else arm.fields
            points = 90 + seed + sum(0.1 * rates.index(rate) for rate in at_other)
            if {"optim-2", "optim-7"} <= at_other.keys():  # a pair that works together
                points += 1
            epoch = {"validation_accuracy": points / 100, "validation_loss": 1.0}
            file.write(json.dumps({"arm": name, "seed": seed, "epochs": [epoch]}) + "\n")

    found = {factor: float(effect.split(" ± ")[0]) for factor, effect, _ in modules["figures"].effects(study)}

    expected = {rate: 0.1 * rates.index(rate) + (0.5 if rate in ("optim-2", "optim-7") else 0.0) for rate in rates}
    assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("page", sorted((BENCHMARKS.parent / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_tables_of_the_docs_are_those_of_the_runs(page: Path, modules: dict[str, ModuleType]) -> None:
    text = page.read_text(encoding="utf-8")

    assert modules["figures"].rebuilt(text) == text


@pytest.mark.large
def test_a_study_is_trained_once_and_kept(
    tmp_path: Path, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    study_module = modules["study"]
    monkeypatch.setattr(study_module, "STUDIES", tmp_path)
    small = CONFIG.model_dump(mode="json", exclude={"seed", "preset"})
    arms = {"one": {"about": "K = 1", "fields": {"model": {"experts": [1]}}}, "two": {"about": "K = 2", "fields": {}}}
    tree = {"preset": "quick", "common": {**small, "epochs": 1, "holdout": 500}, "reference": "one", "arms": arms}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    study = study_module.Study("small", tmp_path)
    study.runs.mkdir()

    for arm in study.arms:
        study_module.train(study, arm, 3, "shapes", threads=1)
    study_module.collect(study, "shapes")

    lines = study.lines()
    assert set(lines) == {("one", 3), ("two", 3)}
    assert lines["one", 3]["measured"]["cosines"] == [None] * len(CONFIG.model.widths)
    assert set(lines["two", 3]["measured"]["lost_with"]) == {"mean", "shuffled"}
    header, rule, *rows = modules["figures"].table("small").splitlines()
    assert len(rows) == 2 and rows[1].startswith("| K = 2 |") and header.count("|") == rows[1].count("|")
    written = study.collected.read_bytes()
    study_module.collect(study, "shapes")
    assert study.collected.read_bytes() == written
