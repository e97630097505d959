"""Compares several runs: groups them by configuration, with means, standard deviations and paired tests."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy.stats import binomtest, ttest_rel

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import Summary
from dynconv.report.record import RunRecord
from dynconv.validation import flat, shown

FEWEST_SEEDS = 3
"""Common seeds needed for an interval: with two seeds, it would span more than a hundred points."""
_LONGEST_NAME = 40
"""In characters; a group with a longer name is numbered instead, and the table of fields describes it."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration on one data set.

    Attributes:
        differing: the group's values of the fields in which groups differ.
    """

    name: str
    records: list[RunRecord]
    differing: dict[str, str]

    def figure(self, of: Callable[[Summary], float | None]) -> tuple[float, float | None, int] | None:
        """Mean, sample standard deviation (None for a single run) and number of runs that have the figure."""
        found = [of(record.summary) for record in self.records if record.summary]
        values = [value for value in found if value is not None]
        if not values:
            return None
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def group(records: list[RunRecord]) -> list[Group]:
    """Groups the runs by configuration, in the order of each group's first run."""
    described = [({"data": record.data_name} | flat(record.config.tree()), record) for record in records]
    differing = differing_fields([fields for fields, _ in described])
    members: dict[tuple[str, ...], list[RunRecord]] = {}
    for fields, record in described:
        members.setdefault(tuple(shown(fields.get(name, "")) for name in differing), []).append(record)
    return [
        Group(name, runs, dict(zip(differing, values, strict=True)))
        for name, (values, runs) in zip(_names(members, differing), members.items(), strict=True)
    ]


def differing_fields(configurations: list[dict[str, Any]]) -> list[str]:
    """The fields in which flat configurations differ, except the seed. A missing field counts as a value of its own."""
    keys = {name: None for fields in configurations for name in fields if name != "seed"}
    return [name for name in keys if len({repr(fields.get(name)) for fields in configurations}) > 1]


def _names(groups: dict[tuple[str, ...], list[RunRecord]], differing: list[str]) -> list[str]:
    """The name of each group: its preset, and the fields that distinguish it from other groups of that preset."""
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


def verdicts(groups: list[Group]) -> list[str]:
    """One sentence for each pair of groups: whether their accuracies differ."""
    return [sentence for first, second in combinations(groups, 2) if (sentence := _test(first, second))]


def _test(first: Group, second: Group) -> str | None:
    """Compares by seed if two or more seeds are common; otherwise, for two single runs, by image."""
    if len({record.data_name for record in [*first.records, *second.records]}) > 1:
        return None
    pairs = _by_common_seed(first, second)
    found = None
    if len(pairs) > 1:
        found = _seed_by_seed(pairs)
    elif len(first.records) == len(second.records) == 1:
        found = _image_by_image(first.records[0].predictions, second.records[0].predictions)
    else:
        found = f"{len(pairs) or 'no'} seed{'' if len(pairs) == 1 else 's'} in common; n is too small for an interval."
    return f"{second.name} against {first.name}: {found}" if found else None


def _by_common_seed(first: Group, second: Group) -> list[tuple[float, float]]:
    """Both groups' accuracies for each common seed: all with test-time augmentation, or all without."""
    summaries = [
        {record.config.seed: record.summary for record in group.records if record.summary} for group in (first, second)
    ]
    common = sorted(summaries[0].keys() & summaries[1].keys())
    pairs = [(summaries[0][seed], summaries[1][seed]) for seed in common]
    if all(summary.test_accuracy_tta is not None for pair in pairs for summary in pair):
        return [(a.best_accuracy, b.best_accuracy) for a, b in pairs]
    return [(a.test_accuracy, b.test_accuracy) for a, b in pairs]


def _seed_by_seed(pairs: list[tuple[float, float]]) -> str:
    differences = [100 * (b - a) for a, b in pairs]
    mean = statistics.mean(differences)
    if len(pairs) < FEWEST_SEEDS:
        return f"{mean:+.2f} points over {len(pairs)} common seeds; n is too small for an interval."
    if max(differences) - min(differences) < 1e-9:  # no spread for a t-test
        return f"{mean:+.2f} points for each of {len(pairs)} common seeds."
    found = ttest_rel([b for _, b in pairs], [a for a, _ in pairs])
    low, high = (100 * bound for bound in found.confidence_interval(0.95))
    return (
        f"{mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), paired t-test over {len(pairs)} common seeds, "
        f"p = {found.pvalue:.2g}."
    )


def _image_by_image(a: Predictions | None, b: Predictions | None) -> str | None:
    if a is None or b is None or a.data_name != b.data_name or not a.labels.equal(b.labels):
        return None
    right = [each.probabilities.argmax(1) == each.labels for each in (a, b)]
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    if lost + won == 0:
        return "right and wrong on the same images."
    p = binomtest(won, lost + won).pvalue
    return (
        f"{won} images won, {lost} lost out of {len(a.labels):,}, McNemar's exact test, p = {p:.2g}. With one run "
        "each, this compares these two networks, not their configurations."
    )
