"""The page about one run: a headline and all registered sections."""

from __future__ import annotations

from dataclasses import dataclass

from dynconv.artifacts.records import Summary
from dynconv.report.page import render, render_part
from dynconv.report.plot import Plot
from dynconv.report.results import interval
from dynconv.report.section import all_sections
from dynconv.report.subject import Subject
from dynconv.validation import shown


def run_page(subject: Subject) -> tuple[str, list[Plot]]:
    """The page as HTML, and the plots on it."""
    drawn: list[Plot] = []
    parts = []
    for section in all_sections():
        content = section.make(subject)
        if content is None:
            continue
        plots = {plot.name: plot for plot in content.plots}
        drawn += content.plots
        parts.append((section, render_part(f"sections/{section.name}.html", plots=plots, **content.values)))
    page = render(
        "run.html",
        title=subject.record.title,
        facts=facts(subject),
        generated=subject.record.data_name == "shapes",
        verdict=subject.routing.verdict if subject.routing else None,
        parts=parts,
        problems=subject.record.problems,
    )
    return page, drawn


@dataclass(frozen=True)
class Fact:
    """One entry of the headline; `note` is shown below the value in smaller print."""

    name: str
    value: str
    note: str = ""


def facts(subject: Subject) -> list[Fact]:
    """The entries of the headline."""
    summary, results = subject.record.summary, subject.results
    images = len(results.metrics.labels) if results else None
    return (_accuracies(summary, images) if summary else []) + conditions(subject)


def conditions(subject: Subject) -> list[Fact]:
    """What the accuracies depend on: the data, the size of the network, the time, the machine."""
    record, summary, dataset = subject.record, subject.record.summary, subject.dataset
    images = len(subject.results.metrics.labels) if subject.results else None
    found = []
    if summary and summary.stopped_by:
        found.append(
            Fact("stopped by", summary.stopped_by, f"after {summary.epochs} of {summary.epochs_planned} epochs")
        )
    if summary and summary.selected_epoch:
        found.append(Fact("weights", f"of epoch {summary.selected_epoch}", f"chosen by {summary.selected_by}"))
    found.append(Fact("data set", record.data_name, f"{images:,} test images" if images else ""))
    if record.epochs:
        sizes = dict.fromkeys(line.image_size for line in record.epochs)  # in order: the last epoch's is last
        tested = f"tested at {dataset.test.images.shape[-1]} px" if dataset else ""
        found.append(Fact("image size", f"trained at {shown(tuple(sizes))} px", tested))
    if summary:
        found.append(Fact("parameters", f"{summary.parameters:,}"))
        found.append(Fact("multiply-adds per image", f"{summary.multiply_adds / 1e6:,.1f} million"))
        found.append(
            Fact("training time", f"{summary.train_seconds:,.0f} s", f"{summary.total_seconds:,.0f} s with evaluation")
        )
    threads = record.environment.threads if record.environment else None
    details = [f"{threads} thread{'s' if threads > 1 else ''}" if threads else "", summary.precision if summary else ""]
    found.append(Fact("machine", record.machine, ", ".join(filter(None, details))))
    return found


def _accuracies(summary: Summary, images: int | None) -> list[Fact]:
    found = [Fact("test accuracy", f"{summary.test_accuracy:.2%}", interval_text(summary.test_accuracy, images))]
    if summary.test_accuracy_tta is not None:
        note = interval_text(summary.test_accuracy_tta, images)
        found.append(Fact("with test-time augmentation", f"{summary.test_accuracy_tta:.2%}", note))
    if summary.validation_accuracy is not None:
        note = "images held out of training" + (", by which the epoch was chosen" if summary.selected_epoch else "")
        found.append(Fact("validation accuracy", f"{summary.validation_accuracy:.2%}", note))
    return found


def interval_text(accuracy: float, images: int | None) -> str:
    """The 95 % interval of an accuracy 0..1 over so many images, in words; empty if their number is unknown."""
    if not images:
        return ""
    low, high = interval(round(accuracy * images), images)
    return f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
