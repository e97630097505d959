"""The command `dynconv`: its verbs and what each prints. Results go to standard output, the rest to standard error.

Every verb imports what it needs when it is called, so that `dynconv --help` answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dynconv
from dynconv.errors import DynconvError

if TYPE_CHECKING:
    from dynconv.data import Dataset

USAGE = """usage: dynconv VERB ...

Train and use image classifiers with dynamic convolutions.

  train [PRESET] [--FIELD VALUE ...]      train a network; writes a run directory
  evaluate RUN [--data X]                 accuracy of a trained network, per class, confusion
  predict IMAGE|FOLDER|- ... [--model M]  classify images, by default with the weights that come with the package
  export RUN [--format onnx|pt2]          the network as a file for other runtimes, preprocessing inside
  report RUN [RUN ...]                    a page about a run, or about several side by side
  explain RUN IMAGE ...                   what the routing does with images
  serve [RUN] [--port 8000]               a server for programs, with a page for people
  runs [FOLDER]                           list runs in a table
  describe [PRESET] [--FIELD VALUE ...]   print a network: shapes, parameters, multiply-adds
  presets                                 list the named configurations
  bench WHAT                              time layer, step, predict, infer (other runtimes) or serve
  doctor                                  what matters about this machine and its data

  dynconv VERB --help                     all options of a verb
  dynconv --version

examples:
  dynconv train quick                               CIFAR-10; downloads it where it is not found
  dynconv train quick --data shapes                 the generated set, no download
  dynconv train standard --model.experts 2 --seed 3
  dynconv train --config run.yaml --data ~/cifar-10-batches-py
  dynconv train --resume runs/20250101-120000-quick-cifar10-seed0

exit codes: 0 done, 1 training failed or some images could not be read, 2 wrong input, 130 interrupted"""


def train(words: Sequence[str]) -> int:
    """Trains, and prints the accuracy, what to do next and, last, the run's path."""
    from dynconv.cli.arguments import TrainArguments, parse_training

    arguments = parse_training(TrainArguments, words, "train")

    from dynconv import data
    from dynconv.artifacts.rundir import RunDir
    from dynconv.machine import pick_device
    from dynconv.model.describe import headline
    from dynconv.training.progress import Progress
    from dynconv.training.trainer import fit

    config = arguments.settings
    pick_device(config.device)  # one that is not there is said before there is a directory
    run = RunDir.reopen(arguments.resume) if arguments.resume else None
    dataset = data.load(config.data.source, seed=config.seed, announce=_announce)
    if config.data.holdout:
        dataset = data.hold_out(dataset, config.data.holdout, config.seed)
    _announce(f"network: {headline(config, len(dataset.classes), dataset.test.images.shape[-1])}")
    run = run or RunDir.create(config, dataset.name)
    _announce(f"run: {run.path}")
    with Progress() as progress:
        summary = fit(config, dataset, run, progress, resume=arguments.resume is not None)
    with_tta = summary["test_accuracy_tta"]
    print(
        f"test accuracy on {dataset.name}: {summary['test_accuracy']:.2%}"
        + ("" if with_tta is None else f", {with_tta:.2%} with test-time augmentation"),
        flush=True,
    )
    stopped_by = summary["stopped_by"]
    if stopped_by:
        print(f"stopped by {stopped_by} after {summary['epochs']} of {summary['epochs_planned']} epochs")
    page = None if stopped_by == "interrupt" else _report_of(run.path, dataset)
    print("next:")
    if stopped_by == "interrupt":
        _curves_of(run.path)
        print(f"  dynconv train --resume {run.path}")
    print(f"  open {page} in a browser" if page else f"  dynconv report {run.path}")
    print(f"  dynconv evaluate {run.path}")
    print(f"  tensorboard --logdir {run.tensorboard}")
    print(run.path)
    return {None: 0, "interrupt": 130}.get(stopped_by, 1)


def _report_of(run: Path, dataset: Dataset) -> Path | None:
    """The page about a run that has just ended. Where it cannot be written the run is none the worse for it."""
    from dynconv.report.write import write_report

    _announce("writing the report")
    try:
        return write_report([run], dataset=dataset, announce=_announce)
    except DynconvError as error:
        _announce(f"no report: {error}")
        return None


def _curves_of(run: Path) -> None:
    """The plots of a run that was interrupted, by one who does not want to wait for the page."""
    from dynconv.report.write import write_curves

    try:
        write_curves(run)
    except DynconvError as error:
        _announce(f"no curves: {error}")


def report(words: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    from dynconv.cli.arguments import ReportArguments, parse

    arguments = parse(ReportArguments, words, "report")

    from dynconv.report.write import write_report

    print(write_report(arguments.runs, arguments.output, arguments.data, announce=_announce))
    return 0


def predict(words: Sequence[str]) -> int:
    """Prints the classes of images as they are done, and which could not be read."""
    from dynconv.cli.arguments import PredictArguments, parse

    arguments = parse(PredictArguments, words, "predict")

    from dynconv.inference import predict as using
    from dynconv.inference.predictor import Classifier

    classifier = Classifier.load(arguments.model)
    sources = using.find(arguments.images)
    writer = using.writer(
        "json" if arguments.json_ else "csv" if arguments.csv else "table", sources, classifier.classes, arguments.top
    )
    failed = 0
    for outcome in using.predict(classifier, sources, top=arguments.top, tta=arguments.tta):
        if outcome.error:
            failed += 1
            _announce(f"dynconv: {outcome.error}")
        elif arguments.copy_to:
            using.copy(outcome, arguments.copy_to)
        writer(outcome)
    if failed:
        _announce(f"dynconv: {failed} of {len(sources)} images could not be read")
    return 1 if failed else 0


def export(words: Sequence[str]) -> int:
    """Writes the network as a file for other runtimes; prints how it compares, and its path."""
    from dynconv.cli.arguments import ExportArguments, parse

    arguments = parse(ExportArguments, words, "export")

    from dynconv.export import export as using
    from dynconv.export import onnx_file
    from dynconv.inference.evaluate import load_dataset
    from dynconv.inference.predictor import Classifier

    path = using.target(arguments.run, arguments.format, arguments.int8, arguments.output)
    if arguments.format == "onnx":
        onnx_file.need()  # said before the work, not after it
    classifier = Classifier.load(arguments.run, device="cpu")
    dataset = load_dataset(classifier, arguments.data, announce=_announce)
    written = using.export(classifier, dataset, path, arguments.format, arguments.layout, int8=arguments.int8)
    print(f"largest difference from the network, of a probability: {written.difference:.2g}, for 1 and for 7 images")
    if written.accuracies:
        print("accuracy on {}: {:.2%} in float32, {:.2%} in int8".format(dataset.name, *written.accuracies))
    print(written.path)
    return 0


def explain(words: Sequence[str]) -> int:
    """Prints an explanation of each image and writes its picture."""
    from dynconv.cli.arguments import ExplainArguments, parse

    arguments = parse(ExplainArguments, words, "explain")

    from rich.console import Console

    from dynconv.inference.predictor import Classifier
    from dynconv.report.explanation import Explainer

    explainer = Explainer(Classifier.load(arguments.run), arguments.data, announce=_announce)
    console = Console()
    failed = 0
    for image in arguments.images:
        try:
            explanation = explainer.explain(image)
        except DynconvError as error:
            _announce(f"dynconv: {error}")
            failed += 1
            continue
        picture = explanation.save(arguments.output)
        console.print(explanation.table(), highlight=False)
        print(picture)
    return 1 if failed else 0


def evaluate(words: Sequence[str]) -> int:
    """Prints the figures of a trained network, as tables or as JSON."""
    from dynconv.cli.arguments import EvaluateArguments, parse

    arguments = parse(EvaluateArguments, words, "evaluate")

    import json

    from rich.console import Console

    from dynconv.inference import evaluate as using
    from dynconv.inference.predictor import Classifier

    classifier = Classifier.load(arguments.run)
    dataset = using.load_dataset(classifier, arguments.data, announce=_announce)
    split = using.choose_split(dataset, arguments.split)
    plain = using.evaluate(classifier, split)
    tta = using.evaluate(classifier, split, tta=True) if classifier.config.tta else None
    if arguments.json_:
        which = {"run": str(arguments.run), "data": dataset.name, "split": arguments.split}
        print(json.dumps(which | using.as_dict(plain, tta, classifier.classes)))
    else:
        console = Console()
        console.print(f"{arguments.run} on {dataset.name}, {arguments.split}", highlight=False, markup=False)
        console.print(using.as_tables(plain, tta, classifier.classes), highlight=False)
    return 0


def serve(words: Sequence[str]) -> int:
    """Prints the URL once requests are answered; returns when it is told to stop and has finished them."""
    from dynconv.cli.arguments import ServeArguments, parse

    arguments = parse(ServeArguments, words, "serve")

    from dynconv.serve import server as using
    from dynconv.serve.limits import Limits

    limits = Limits(
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay_ms / 1000,
        queue=arguments.queue,
        body=int(arguments.max_body_mb * 1_000_000),
        images=arguments.max_images,
        pixels=int(arguments.max_megapixels * 1_000_000),
        seconds=arguments.timeout,
    )
    using.serve(
        arguments.run, arguments.host, arguments.port, arguments.data, limits,
        ready=lambda url: print(url, flush=True), announce=_announce,
    )  # fmt: skip
    return 0


def runs(words: Sequence[str]) -> int:
    """Prints the table of the runs in a folder."""
    from dynconv.cli.arguments import RunsArguments, parse

    arguments = parse(RunsArguments, words, "runs")

    from rich.console import Console

    from dynconv.report.runs import runs_table

    # One line a run for whatever reads this through a pipe.
    Console(width=None if sys.stdout.isatty() else 200).print(runs_table(arguments.folder))
    return 0


def describe(words: Sequence[str]) -> int:
    """Prints the table of a network."""
    from dynconv.cli.arguments import DescribeArguments, parse_training

    arguments = parse_training(DescribeArguments, words, "describe")

    from rich.console import Console

    from dynconv.model.describe import describe as table

    Console().print(table(arguments.settings), highlight=False)
    return 0


def presets(words: Sequence[str]) -> int:
    """Prints the presets, each with what its docstring says of machine, time and accuracy."""
    from dynconv.cli.arguments import PresetsArguments, parse

    parse(PresetsArguments, words, "presets")

    import inspect
    import textwrap

    from dynconv.training.presets import PRESETS

    for name, preset in PRESETS.items():
        print(f"{name}\n{textwrap.indent(inspect.getdoc(preset) or '', '  ')}\n")
    return 0


def bench(words: Sequence[str]) -> int:
    """Measures the layer, a training step or inference; prints tables, and writes JSON and a plot where asked to."""
    from dynconv.cli.arguments import BenchArguments, parse

    arguments = parse(BenchArguments, words, "bench")

    from rich.console import Console

    from dynconv.bench.run import Request, run
    from dynconv.training.optim import build_optimizers

    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in run(Request(**dict(arguments)), _announce, build_optimizers):
        console.print(part, highlight=False)
    return 0


def doctor(words: Sequence[str]) -> int:
    """Prints what was found on this machine and what to do about it."""
    from dynconv.cli.arguments import DoctorArguments, parse

    parse(DoctorArguments, words, "doctor")

    from rich.console import Console

    from dynconv.doctor import examine, report

    Console().print(report(examine()), highlight=False)
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "report": report,
    "explain": explain,
    "serve": serve,
    "runs": runs,
    "describe": describe,
    "presets": presets,
    "bench": bench,
    "doctor": doctor,
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the verb that `words` (default: the command line) begin with; returns the exit code."""
    # torch takes large blocks in large pages then. It looks once, at its first allocation. A training step on a CPU
    # spends a tenth of its time on page faults otherwise.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        code = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
        return code
    except DynconvError as error:
        print(f"dynconv: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dynconv: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in `dynconv runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"dynconv {dynconv.__version__}")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}"
        raise DynconvError(f"no verb {words[0]!r}; {hint}")
    return verb(words[1:])


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
