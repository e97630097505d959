"""How to do it again: the chapters on the hyper-parameters and the environment."""

from __future__ import annotations

from collections.abc import Sequence

from dynconv.report.handin.document import Block, Chapter, Code, Column, Listing, Table, text
from dynconv.report.sections import environment as environment_section
from dynconv.report.sections import hyperparameters as hyperparameters_section
from dynconv.report.subject import Subject


def hyperparameters(subject: Subject, seeds: Sequence[int]) -> Chapter:
    """All of them by topic, with their meaning."""
    blocks: list[Block] = []
    for topic, fields in hyperparameters_section.make(subject).values["tables"]:
        rows = tuple(
            (Code(name), ", ".join(map(str, seeds)) if name == "seed" else value or "none", meaning)
            for name, value, meaning in fields
        )
        columns = Column("hyper-parameter", share=0.3), Column("value", share=0.2), Column("meaning", share=0.5)
        blocks.append(Table(f"Hyper-parameters: {topic.lower()}.", columns, rows))
    return Chapter("Hyper-parameters", blocks)


def environment(subjects: Sequence[Subject]) -> Chapter:
    """Machine, software, and the commands that train the same networks again."""
    found = [environment_section.make(subject).values for subject in subjects]
    several = len(subjects) > 1
    blocks: list[Block] = []
    if commands := tuple(values["command"] for values in found if values["command"]):
        blocks += [text(f"The command{'s' if several else ''} that started training:"), Listing(commands)]
    blocks += [
        text("To train with the same hyper-parameters again:"),
        Listing(tuple(values["again"] for values in found)),
        text("To evaluate the trained network:"),
        Listing(tuple(f"dynconv evaluate {values['path']}" for values in found)),
    ]
    if found[0]["rows"]:
        caption = (
            f"The environment of the run with seed {subjects[0].record.config.seed}." if several else "The environment."
        )
        blocks.append(Table(caption, (Column("", share=0.25), Column("", share=0.75)), tuple(found[0]["rows"])))
    return Chapter("Environment and reproduction", blocks)
