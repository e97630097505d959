"""The network, as a drawing and as a table."""

from __future__ import annotations

from dynconv.model.describe import PARTS
from dynconv.report.diagram import diagram
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject


@section("network", "Network", order=40)
def make(subject: Subject) -> Content:
    """Made from the configuration alone."""
    return Content([diagram(subject.rows)], {"layers": [(row, PARTS[row.part]) for row in subject.rows]})
