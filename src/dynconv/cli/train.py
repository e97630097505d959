"""`dynconv train`."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dynconv.artifacts.records import Summary
from dynconv.cli.messages import show_messages
from dynconv.cli.settings import TrainArguments, chosen_fields, parse_training, seconds_of
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.training.config import TrainConfig
from dynconv.training.distributed import Group, ToldError, joined, require_restartable, restarted
from dynconv.training.launch import Outcome, resume, start
from dynconv.training.progress import Progress
from dynconv.training.seeds import run_of, seed_numbers, train_seeds
from dynconv.training.signals import NoticeError
from dynconv.training.trainer import INTERRUPT
from dynconv.validation import field_descriptions

logger = logging.getLogger(__name__)


def run(words: Sequence[str]) -> int:
    """Trains a network; prints the accuracy, the next steps and, last, the run's path.

    Of several processes that torchrun has started, one prints.
    """
    arguments = parse_training(TrainArguments, words, "train")
    chosen = chosen_fields(words, arguments.config)
    try:
        with joined(arguments.launch.device) as group:
            console = show_messages(quiet=not group.leads)
            if arguments.seeds:
                return _train_seeds(arguments, chosen, group, console)
            with Progress(console) as progress:
                outcome = _train(arguments, chosen, group, progress)
    except ToldError as error:
        return error.exit_code
    except NoticeError as error:
        if group.leads:
            raise
        return error.exit_code
    if group.leads:
        _print_result(outcome.summary)
        _print_next(outcome, arguments.report)
    return _exit_code(outcome.summary)


def _train_seeds(arguments: TrainArguments, chosen: frozenset[str], group: Group, console: Console) -> int:
    """One run after another, then the comparison."""
    launch, wanted = arguments.launch, seed_numbers(arguments.seeds)
    folder = launch.run or Path("runs") / f"{arguments.settings.preset}-{Path(launch.data).name}"
    summaries = []
    for summary in train_seeds(arguments.settings, launch, folder, wanted, console, group, chosen):
        if group.leads:
            print(f"seed {summary.seed}: ", end="")
            _print_result(summary)
        summaries.append(summary)
    if not summaries[-1].finished:
        return _exit_code(summaries[-1])
    if group.leads:
        runs = [run_of(folder, seed) for seed in wanted]
        _print_comparison(summaries)
        page = _report_of(runs, folder / "report") if arguments.report and len(runs) > 1 else None
        print("next:")
        print(f"  open {page} in a browser" if page else f"  dynconv report {' '.join(map(str, runs))}")
        print(folder)
    return 0


def _print_comparison(summaries: list[Summary]) -> None:
    """Means and standard deviations, of two runs or more."""
    for name, accuracies in (
        ("test accuracy", [summary.test_accuracy for summary in summaries]),
        ("with test-time augmentation", [summary.test_accuracy_tta for summary in summaries]),
    ):
        values = [100 * accuracy for accuracy in accuracies if accuracy is not None]
        if len(values) > 1:
            print(f"{name}: {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} % (n = {len(values)})")


def _exit_code(summary: Summary) -> int:
    return 0 if summary.finished else 130 if summary.stopped_by == INTERRUPT else 1


def _train(arguments: TrainArguments, chosen: frozenset[str], group: Group, progress: Progress) -> Outcome:
    launch, path = arguments.launch, arguments.resume
    group.share(lambda: require_restartable(path or launch.run))
    if path is None and restarted(group) and launch.run and group.share((launch.run / "config.yaml").exists):
        path, launch = launch.run, launch.model_copy(update={"run": None})
    if path:
        return resume(path, launch, progress, group=group)
    seconds = seconds_of(arguments.time)
    return start(arguments.settings, launch, progress, group=group, seconds=seconds, chosen=chosen)


def _print_result(summary: Summary) -> None:
    with_tta = summary.test_accuracy_tta
    print(
        f"test accuracy on {summary.data}: {summary.test_accuracy:.2%}"
        + ("" if with_tta is None else f", {with_tta:.2%} with test-time augmentation"),
        flush=True,
    )
    if summary.stopped_by:
        print(f"stopped by {summary.stopped_by} after {summary.epochs} of {summary.epochs_planned} whole epochs")
    if summary.selected_epoch:
        print(f"the weights are those of epoch {summary.selected_epoch}, the best on the hold-out", end="")
        print("" if summary.validation_accuracy is None else f": {summary.validation_accuracy:.2%}")


def _print_next(outcome: Outcome, report: bool) -> None:
    run, interrupted = outcome.run, outcome.summary.stopped_by == INTERRUPT
    page = _report_of([run.path], dataset=outcome.dataset) if report and not interrupted else None
    print("next:")
    if interrupted:
        _curves_of(run.path)
        print(f"  dynconv train --resume {run.path}")
    print(f"  open {page} in a browser" if page else f"  dynconv report {run.path}")
    print(f"  dynconv evaluate {run.path}")
    print(f"  tensorboard --logdir {run.tensorboard}")
    print(run.path)


def _report_of(runs: list[Path], output: Path | None = None, dataset: Dataset | None = None) -> Path | None:
    """Writes the page about runs that have just ended. They are complete without it."""
    logger.info("writing the report")
    from dynconv.report.write import write_report  # not at the start: what it imports takes more than a second

    try:
        return write_report(runs, output, dataset=dataset, meanings=field_descriptions(TrainConfig))
    except DynconvError as error:
        logger.warning("no report: %s", error)
        return None


def _curves_of(run: Path) -> None:
    """Writes only the plots: the user interrupted the run and does not want to wait for the page."""
    from dynconv.report.write import write_curves

    try:
        write_curves(run)
    except DynconvError as error:
        logger.warning("no curves: %s", error)
