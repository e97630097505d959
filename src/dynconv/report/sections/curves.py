"""Loss and accuracy over the epochs and over time, schedules, and the warnings of the run."""

from __future__ import annotations

from dynconv.report.curves import curves
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject


@section("curves", "Curves", order=10)
def make(subject: Subject) -> Content:
    """Empty of plots where no epoch has ended."""
    record = subject.record
    return Content(curves(record.epochs, record.title), {"epochs": record.epochs, "warnings": record.warnings})
