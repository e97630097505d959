"""Loss and accuracy over epochs and over time, the schedules, and the run's warnings."""

from __future__ import annotations

from dynconv.report.curves import curves
from dynconv.report.section import Content, section
from dynconv.report.subject import Subject


@section("curves", "Curves", order=10)
def make(subject: Subject) -> Content:
    """Contains no plots if no epoch has ended."""
    record = subject.record
    return Content(curves(record.epochs, record.title), {"epochs": record.epochs, "warnings": record.warnings})
