"""What came out: the chapters on the curves, the results and the routing, of one run or of several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import Summary
from dynconv.report import curves, page
from dynconv.report.compare import Group
from dynconv.report.handin.document import Block, Cell, Chapter, Column, Figure, Items, Span, Table, text
from dynconv.report.results import ClassRow, results
from dynconv.report.run_page import interval_text
from dynconv.report.sections import results as results_section
from dynconv.report.sections import routing as routing_section
from dynconv.report.subject import Subject

FIGURES: dict[str, Callable[[Summary], float | None]] = {
    "test accuracy": lambda summary: summary.test_accuracy,
    "with test-time augmentation": lambda summary: summary.test_accuracy_tta,
    "test loss": lambda summary: summary.test_loss,
    "training accuracy": lambda summary: summary.train_accuracy,
    "validation accuracy": lambda summary: summary.validation_accuracy,
    "training, s": lambda summary: summary.train_seconds,
}
"""The figures of a run, by the names that `page.figure` formats."""


def learning(subjects: Sequence[Subject], title: str) -> Chapter:
    """The curves of loss and accuracy."""
    runs = [subject.record.epochs for subject in subjects if subject.record.epochs]
    if not runs:
        return Chapter("Curves", [text("No epoch has ended.")])
    blocks: list[Block] = [Figure(plot) for plot in curves.over_epochs(runs, title)]
    warnings = [line for subject in subjects for line in subject.record.warnings]
    if warnings:
        blocks += [
            text("Warnings during training:"),
            Items(tuple(f"Step {each.step}: {each.text}" for each in warnings)),
        ]
    return Chapter("Curves", blocks)


def accuracies(group: Group) -> list[tuple[str, str]]:
    """Name and value of the accuracies on the test set, with n."""
    found = []
    for name in ("test accuracy", "with test-time augmentation"):
        if figure := group.figure(FIGURES[name]):
            found.append((name, f"{page.figure(name, figure)} (n = {figure[2]})"))
    return found


def outcome(subjects: Sequence[Subject], group: Group) -> Chapter:
    """The final accuracy, the figures of each run, and those of each class."""
    blocks: list[Block] = []
    ended = [subject for subject in subjects if subject.record.summary]
    if ended:
        blocks += [text(*_headline(ended, group)), _runs(ended, group), *_check(ended)]
    else:
        blocks.append(text("No run has ended, so there are no results."))
    known = [subject.record.predictions for subject in subjects if subject.record.predictions]
    if known:
        whole = results(_joined(known))
        kept = f"summed over {len(known)} runs" if len(known) > 1 else ""
        plot = results_section.confusion(whole)
        tta = ", with test-time augmentation" if subjects[0].record.config.tta else ""
        blocks.append(Figure(plot, f"{plot.caption.rstrip('.')}{tta}{', ' + kept if kept else ''}."))
        blocks.append(_classes(whole.rows, ", ".join(filter(None, [f"Results by class{tta}", kept])) + "."))
    return Chapter("Results", blocks)


def _headline(ended: Sequence[Subject], group: Group) -> list[Span]:
    (_, plain), *rest = accuracies(group)
    first = ended[0]
    whole = f"{_moment(ended)}, the test accuracy is {plain}" + (f", and {rest[0][1]} {rest[0][0]}" if rest else "")
    if len(ended) == 1 and first.results:
        summary = first.record.summary
        assert summary is not None
        interval = interval_text(summary.best_accuracy, len(first.results.metrics.labels))
        whole += f"; {interval} over the {len(first.results.metrics.labels):,} test images"
    elif len(ended) > 1:
        whole += f": means ± standard deviations of {len(ended)} runs that differ only in their seed"
    return [whole + ". No epoch was chosen by its test accuracy."]


def _moment(ended: Sequence[Subject]) -> str:
    """Of which weights the figures are, as the beginning of a sentence."""
    summaries = [subject.record.summary for subject in ended if subject.record.summary]
    chosen = {summary.selected_epoch for summary in summaries}
    if None not in chosen:
        which = f"epoch {chosen.pop()}, which was" if len(chosen) == 1 else "the epoch that was"
        return f"With the weights of {which} best on the hold-out"
    if all(summary.epochs == summary.epochs_planned for summary in summaries):
        return "After the last epoch"
    done = {f"{summary.epochs} of {summary.epochs_planned}" for summary in summaries}
    return f"Where training ended, after {done.pop() if len(done) == 1 else 'some'} epochs"


def _runs(ended: Sequence[Subject], group: Group) -> Table:
    """A row for each run, and one for their mean."""
    figures = {name: figure for name in FIGURES if (figure := group.figure(FIGURES[name]))}
    titles = {"with test-time augmentation": "with TTA", "training, s": "training"}
    columns = (Column("seed"), *(Column(titles.get(name, name), right=True) for name in figures))
    rows: list[tuple[Span, ...]] = []
    for subject in ended:
        summary = subject.record.summary
        assert summary is not None
        cells = []
        for name in figures:
            value = FIGURES[name](summary)
            cells.append(_with_unit(name, None if value is None else (value, None, 1)))
        rows.append((str(subject.record.config.seed), *cells))
    several = len(ended) > 1
    if several:
        rows.append((f"mean ± sd (n = {len(ended)})", *(_with_unit(name, figure) for name, figure in figures.items())))
    moment = _moment(ended)
    caption = (
        f"The figures {moment[0].lower()}{moment[1:]}. TTA: test-time augmentation. Training accuracy is measured on "
        "augmented images."
    )
    return Table(caption, columns, tuple(rows), total=several)


def _with_unit(name: str, figure: tuple[float, float | None, int] | None) -> str:
    return page.figure(name, figure) + (" s" if name == "training, s" and figure else "")


def _check(ended: Sequence[Subject]) -> list[Block]:
    """Code that computes the accuracy from the records, and again from the weights."""
    best = [100 * subject.record.summary.best_accuracy for subject in ended if subject.record.summary]
    mean = statistics.mean(best)
    source = "accuracies = [100 * run.accuracy for run in runs]\n"
    if len(best) > 1:
        source += 'print(f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f} %, n = {len(runs)}")'
        output = f"{mean:.2f} ± {statistics.stdev(best):.2f} %, n = {len(best)}\n"
    else:
        source += 'print(f"{accuracies[0]:.2f} %, n = 1")'
        output = f"{mean:.2f} %, n = 1\n"
    cells: list[Block] = [Cell(source, output)]
    if all(subject.predictor and subject.dataset and subject.results for subject in ended):
        tta = ended[0].record.config.tta
        again = (
            "from dynconv.inference.evaluate import evaluate\n"
            "from dynconv.inference.trained_data import load_dataset\n\n"
            "for run in runs:  # again, from the weights\n"
            "    predictor = run.predictor()\n"
            f"    measured = evaluate(predictor, load_dataset(predictor, data).test, tta={tta})\n"
            "    print(f\"seed {run.config['seed']}: {measured.accuracy:.2%}\")"
        )
        lines = [
            f"seed {each.record.config.seed}: {each.results.metrics.accuracy:.2%}\n" for each in ended if each.results
        ]
        cells.append(Cell(again, "".join(lines)))
    return cells


def _joined(known: Sequence[Predictions]) -> Predictions:
    """The predictions of all runs as if they were those of one."""
    labels = torch.cat([each.labels for each in known])
    probabilities = torch.cat([each.probabilities for each in known])
    return Predictions(labels, probabilities, known[0].classes, known[0].data_name)


def _classes(rows: Sequence[ClassRow], caption: str) -> Table:
    columns = (Column("class"), *(Column(name, right=True) for name in ("images", "precision", "recall", "F1")))
    cells: tuple[tuple[Span, ...], ...] = tuple(
        (row.name, f"{row.images:,}", *(f"{100 * value:.1f} %" for value in (row.precision, row.recall, row.f1)))
        for row in rows
    )
    return Table(caption, columns, cells)


# ------------------------------------------------------------------------------------------------------- routing


def routing(subjects: Sequence[Subject]) -> Chapter:
    """What the routing does; in figures that of the first run, in the verdicts that of each."""
    first = subjects[0]
    content = routing_section.make(first)
    measured = [subject for subject in subjects if subject.routing]
    several = len(subjects) > 1
    blocks: list[Block] = []
    if max(first.record.config.model.experts) > 1:
        blocks.append(
            text(
                "How much do the routing weights matter? The trained network is also tested with other routing "
                "weights: each block's mean over the images, the same for every image; those of another image; and "
                "1/K. It is not retrained, so this shows how much it relies on its routing, not how well a static "
                "network would do."
            )
        )
    verdicts = [subject.routing.verdict for subject in measured if subject.routing]
    if several and verdicts:
        seeds = [subject.record.config.seed for subject in measured]
        blocks.append(Items(tuple(f"Seed {seed}: {each}" for seed, each in zip(seeds, verdicts, strict=True))))
    blocks += [text(each) for each in verdicts if not several]
    whose = f" Seed {first.record.config.seed}." if several else ""
    blocks += [Figure(plot, plot.caption + whose) for plot in reversed(content.plots)]
    if content.values["usage"]:
        blocks.append(_usage(content.values["usage"], whose))
    return Chapter("Routing", blocks)


def _usage(usage: Sequence[dict[str, Any]], whose: str) -> Table:
    columns = (
        Column("block"), Column("mean weight of each expert", share=0.24), Column("strongest on", share=0.22),
        Column("entropy", right=True), Column("sd over images", right=True), Column("finding", share=0.15),
    )  # fmt: skip
    rows = tuple(
        (
            str(row["block"].block),
            "  ".join(f"{value:.2f}" for value in row["block"].mean),
            "  ".join(f"{100 * value:.0f} %" for value in row["strongest"]),
            f"{row['block'].entropy:.3f}", f"{row['block'].std:.3f}", str(row["remark"]) or "in use",
        )
        for row in usage
    )  # fmt: skip
    caption = (
        "Use of the experts over the test images. Strongest on: share of the images on which an expert has the largest "
        "weight. Entropy: of the mean weights, 1 for uniform."
    )
    return Table(caption + whose, columns, rows)
