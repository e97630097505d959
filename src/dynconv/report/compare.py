"""Several runs: grouped by configuration, with means, standard deviations and paired tests."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy.stats import binomtest, ttest_rel

from dynconv.report.record import Record

_NOT_COMPARED = {"seed", "run", "device", "data.source"}
"""Fields in which runs of one group may differ: the seed, and where things lie."""
_LONGEST_NAME = 40
"""Characters; a group that differs by more is numbered, and the table of fields says what it is."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration on one data set, of different seeds. `differing`: its fields that others have not."""

    name: str
    records: list[Record]
    differing: dict[str, str]

    def figure(self, of: Callable[[Record], float | None]) -> tuple[float, float | None, int] | None:
        """Mean, sample standard deviation (None of a single run) and number of runs that have the figure."""
        values = [value for value in map(of, self.records) if value is not None]
        if not values:
            return None
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def group(records: list[Record]) -> list[Group]:
    """Groups in the order of their first run."""
    described = [
        ({"data": record.data_name} | flat(record.config.model_dump(mode="json")), record) for record in records
    ]
    keys = {name: None for fields, _ in described for name in fields if name not in _NOT_COMPARED}
    differing = [name for name in keys if len({repr(fields.get(name)) for fields, _ in described}) > 1]
    members: dict[tuple[str, ...], list[Record]] = {}
    for fields, record in described:
        members.setdefault(tuple(str(fields.get(name)) for name in differing), []).append(record)
    return [
        Group(name, runs, dict(zip(differing, values, strict=True)))
        for name, (values, runs) in zip(_names(members, differing), members.items(), strict=True)
    ]


def _names(groups: dict[tuple[str, ...], list[Record]], differing: list[str]) -> list[str]:
    """Of each group, by its values of the differing fields: its preset, and what tells it from others of the same."""
    fields = [
        {"preset": runs[0].config.preset} | dict(zip(differing, values, strict=True)) for values, runs in groups.items()
    ]
    names = []
    for number, own in enumerate(fields):
        alike = [other for other in fields if other["preset"] == own["preset"]]
        telling = [name for name in differing if len({other[name] for other in alike}) > 1]
        short = [f"{name.rpartition('.')[2]} {own[name]}" for name in telling]
        label = ", ".join(short) if len(", ".join(short)) <= _LONGEST_NAME else f"configuration {number + 1}"
        names.append(f"{own['preset']}: {label}" if label else own["preset"])
    return names


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"experts": 4}} -> {"model.experts": 4}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def tests(groups: list[Group]) -> list[str]:
    """For each two groups, whether their accuracies differ, in a sentence."""
    return [sentence for first, second in combinations(groups, 2) if (sentence := _test(first, second))]


def _test(first: Group, second: Group) -> str | None:
    """Paired by seed where two or more seeds are common, else, of two single runs, by image."""
    runs = [*first.records, *second.records]
    if len({record.data_name for record in runs}) > 1:
        return None
    # Both with test-time augmentation, or both without.
    key = "test_accuracy" if any(run.summary.get("test_accuracy_tta") is None for run in runs) else "test_accuracy_tta"
    seeds = [
        {run.config.seed: run.summary[key] for run in group.records if run.summary.get(key) is not None}
        for group in (first, second)
    ]
    common = sorted(seeds[0].keys() & seeds[1].keys())
    names = f"{second.name} against {first.name}"
    if len(common) > 1:
        pairs = [(seeds[1][seed], seeds[0][seed]) for seed in common]
        differences = [100 * (b - a) for b, a in pairs]
        if len(set(differences)) == 1:
            return f"{names}: {differences[0]:+.2f} points in each of {len(common)} common seeds."
        found = ttest_rel(*zip(*pairs, strict=True))
        low, high = (100 * bound for bound in found.confidence_interval(0.95))
        return (
            f"{names}: {statistics.mean(differences):+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), paired "
            f"t-test over {len(common)} common seeds, p = {found.pvalue:.2g}."
        )
    if len(first.records) == len(second.records) == 1:
        a, b = first.records[0].predictions, second.records[0].predictions
        if a is None or b is None or a.data_name != b.data_name or not a.labels.equal(b.labels):
            return None
        right = [each.probabilities.argmax(1) == each.labels for each in (a, b)]
        lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        if lost + won == 0:
            return f"{names}: right and wrong on the same images."
        p = binomtest(won, lost + won).pvalue
        return (
            f"{names}: {won} images won, {lost} lost of {len(a.labels)}, McNemar's exact test, p = {p:.2g}. One run "
            "each, so this tells these two networks apart, not their configurations."
        )
    return None
