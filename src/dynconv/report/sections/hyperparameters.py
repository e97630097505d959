"""All hyper-parameters by topic, with their meaning."""

from __future__ import annotations

from typing import Any

from dynconv.report.section import Content, section
from dynconv.report.subject import Subject
from dynconv.validation import flat, shown

_TOPICS = {"augment": "Augmentation", "data": "Data", "model": "Model", "optim": "Optimization"}


@section("hyperparameters", "Hyper-parameters", order=50)
def make(subject: Subject) -> Content:
    """Shows what the run recorded, including hyper-parameters that this version does not know."""
    tree: dict[str, Any] = subject.record.config.tree()
    topics: dict[str, dict[str, Any]] = {"Run": {}}
    for name, value in tree.items():
        if isinstance(value, dict):
            topics[_TOPICS.get(name, name)] = flat(value, f"{name}.")
        else:
            topics["Run"][name] = value
    # Runs of format 1 keep the recipe's constants, which were not options, in their environment.
    fixed = subject.record.environment.tree().get("fixed", {}) if subject.record.environment else {}
    if isinstance(fixed, dict) and fixed:
        topics["Fixed (not options)"] = {name.replace(".", ": "): value for name, value in flat(fixed).items()}
    tables = [
        (topic, [(name, shown(value), subject.meanings.get(name, "")) for name, value in fields.items()])
        for topic, fields in topics.items()
    ]
    return Content(values={"tables": tables})
