"""Everything that the page says of one run, computed from its directory."""

from __future__ import annotations

import base64
import io
import math
import shlex
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from dynconv.artifacts.rundir import Predictions
from dynconv.config import RunConfig
from dynconv.data import Dataset
from dynconv.inference import explain
from dynconv.inference.predictor import Classifier
from dynconv.model import describe
from dynconv.model.cost import Row
from dynconv.report import curves, plots
from dynconv.report.diagram import diagram
from dynconv.report.record import Record
from dynconv.report.results import (
    Calibration,
    Results,
    calibration,
    confident_mistakes,
    interval,
    least_certain,
    results,
    robustness,
    temperature_scaled,
)
from dynconv.report.style import Plot

NOTABLE = 16
"""Images shown of each kind."""
ROUTED, CORRUPTED = 2000, 500
"""Test images, drawn at random, that the routing and its replacement, and the corruptions are measured on."""
EXCITING = 6
"""Images shown of each expert."""
MOST_EXPERTS = 60
"""The most experts, over all blocks, whose exciting images are shown."""


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, and what is written under it."""

    source: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class BlockUsage:
    """Of one block: mean weight of each expert, share of the images on which each is strongest, and what follows."""

    number: int
    means: list[float]
    strongest: list[float]
    entropy: float
    spread: float
    remark: str


@dataclass
class RunReport:
    """What the page shows of one run; parts that could not be computed are None or empty."""

    record: Record
    title: str
    facts: list[tuple[str, str]]
    settings: list[tuple[str, list[tuple[str, str, str]]]]
    environment: list[tuple[str, str]]
    command: str | None
    layers: list[tuple[Row, str]]
    plots: dict[str, Plot] = field(default_factory=dict)
    results: Results | None = None
    calibrations: tuple[Calibration, Calibration, float] | None = None
    mistakes: list[Thumbnail] = field(default_factory=list)
    uncertain: list[Thumbnail] = field(default_factory=list)
    verdict: str | None = None
    usage: list[BlockUsage] = field(default_factory=list)
    exciting: list[tuple[str, list[Thumbnail]]] = field(default_factory=list)
    counts: tuple[int, int] = (0, 0)


def title(record: Record) -> str:
    """Of the page and of the curves."""
    return f"{record.config.preset} on {record.data_name}, seed {record.config.seed}"


def report_run(record: Record, classifier: Classifier | None, dataset: Dataset | None) -> RunReport:
    """Computes the report of a run from its record, its network and its images, as far as they are at hand."""
    classes = classifier.classes if classifier else record.predictions.classes if record.predictions else ()
    side = dataset.test.images.shape[-1] if dataset else 32
    rows = describe.rows(record.config, len(classes) or 10, side)
    found = results(record.predictions) if record.predictions else None
    report = RunReport(
        record=record,
        title=title(record),
        facts=_facts(record, found),
        settings=[*settings(record.config), *_fixed(record)],
        environment=_environment(record),
        command=record.environment.get("command"),
        layers=[(row, describe.PARTS[row.part]) for row in rows],
        results=found,
    )
    drawn = [*curves.curves(record.epochs, report.title), diagram(rows)]
    if record.predictions and found:
        drawn.append(plots.confusion(found))
        log_probabilities = record.predictions.probabilities.clamp_min(1e-12).log()
        scaled, temperature = temperature_scaled(log_probabilities, record.predictions.labels)
        before, after = (calibration(each, record.predictions.labels) for each in (log_probabilities, scaled))
        report.calibrations = before, after, temperature
        drawn.append(plots.reliability(before, after))
    if record.epochs:
        drawn.append(plots.routing_over_epochs(record.epochs))
    if classifier:
        drawn.append(plots.first_kernels(classifier.net))
    if dataset and record.predictions:
        images = dataset.test.images.cpu()
        report.mistakes = _notable(record.predictions, images, confident_mistakes(record.predictions, NOTABLE))
        report.uncertain = _notable(record.predictions, images, least_certain(record.predictions, NOTABLE))
    if classifier and dataset:
        drawn += _examine(report, classifier, dataset)
    report.plots = {plot.name: plot for plot in drawn}
    return report


def _examine(report: RunReport, classifier: Classifier, dataset: Dataset) -> list[Plot]:
    """What needs the network to be run on images: routing, its replacement, corruptions."""
    order = torch.randperm(len(dataset.test.labels), generator=torch.Generator().manual_seed(0))
    images, labels = dataset.test.images.cpu()[order[:ROUTED]], dataset.test.labels.cpu()[order[:ROUTED]]
    routing = explain.routing_weights(classifier, images)
    report.usage = [_usage(number, a_NK) for number, a_NK in enumerate(routing, 1)]
    experts = classifier.config.model.experts
    if 1 < experts * len(routing) <= MOST_EXPERTS and experts > 1:
        for number, a_NK in enumerate(routing, 1):
            for k in range(experts):
                top = a_NK[:, k].topk(min(EXCITING, len(a_NK))).indices.tolist()
                shown = [
                    Thumbnail(_data_uri(images[i]), (classifier.classes[int(labels[i])], f"{float(a_NK[i, k]):.2f}"))
                    for i in top
                ]
                report.exciting.append((f"block {number}, expert {k + 1}", shown))
    accuracy, ablations = explain.ablate(classifier, images, labels, routing)
    clean = classifier.logits(images[:CORRUPTED]).argmax(1) == labels[:CORRUPTED]
    corrupted = robustness(classifier, images[:CORRUPTED], labels[:CORRUPTED])
    report.counts = len(images), len(images[:CORRUPTED])
    report.verdict = explain.verdict(accuracy, ablations, experts, len(images))
    means = [explain.class_means(a_NK, labels, len(classifier.classes)) for a_NK in routing]
    return [
        plots.routing_by_class(means, classifier.classes),
        *([plots.ablation(accuracy, ablations)] if experts > 1 else []),
        plots.robustness(float(clean.float().mean()), corrupted),
    ]


def _usage(number: int, a_NK: Tensor) -> BlockUsage:
    k = a_NK.shape[1]
    mean_K = a_NK.mean(0)
    share_K = mean_K / mean_K.sum().clamp_min(1e-12)
    entropy = float(torch.special.entr(share_K).sum()) / math.log(k) if k > 1 else 1.0
    spread = float(a_NK.std(0, correction=0).mean())
    strongest = (torch.bincount(a_NK.argmax(1), minlength=k) / len(a_NK)).tolist()
    remark = ""
    if k > 1 and entropy < 0.02:
        remark = "collapsed: one expert for every image"
    elif k > 1 and spread < 0.005:
        remark = "the same mixture for every image"
    elif k > 1 and min(mean_K.tolist()) < 0.1 / k:
        remark = "an expert is hardly used"
    return BlockUsage(number, mean_K.tolist(), strongest, entropy, spread, remark)


def _notable(predictions: Predictions, images_NCHW: Tensor, chosen: list[int]) -> list[Thumbnail]:
    found = []
    for index in chosen:
        p_C = predictions.probabilities[index]
        label = int(predictions.labels[index])
        predicted = int(p_C.argmax())
        lines = (
            f"true: {predictions.classes[label]} {float(p_C[label]):.0%}",
            f"predicted: {predictions.classes[predicted]} {float(p_C[predicted]):.0%}",
        )
        found.append(Thumbnail(_data_uri(images_NCHW[index]), lines))
    return found


def _data_uri(image_CHW: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _facts(record: Record, found: Results | None) -> list[tuple[str, str]]:
    """The headline: name and value."""
    summary, environment = record.summary, record.environment
    facts = []
    images = found.images if found else None
    for name, key in (("test accuracy", "test_accuracy"), ("with test-time augmentation", "test_accuracy_tta")):
        accuracy = summary.get(key)
        if accuracy is not None:
            text = f"{accuracy:.2%}"
            if images:
                low, high = interval(round(accuracy * images), images)
                text += f" (95 % interval {100 * low:.2f} to {100 * high:.2f})"
            facts.append((name, text))
    if summary.get("validation_accuracy") is not None:
        facts.append(("validation accuracy", f"{summary['validation_accuracy']:.2%}"))
    if summary.get("stopped_by"):
        facts.append(("stopped by", f"{summary['stopped_by']}, after {summary.get('epochs')} epochs"))
    facts.append(("data set", record.data_name + (f", {images:,} test images" if images else "")))
    for name, key in (("parameters", "parameters"), ("multiply-adds per image", "multiply_adds")):
        if key in summary:
            facts.append((name, f"{summary[key] / 1e6:,.2f} million"))
    if "train_seconds" in summary:
        whole = f"{summary['train_seconds']:,.0f} s in training steps, {summary.get('total_seconds', 0):,.0f} s in all"
        facts.append(("time", whole))
    machine = ", ".join(map(str, environment.get("gpus") or [environment.get("processor", "?")]))
    facts.append(("machine", f"{machine}, {environment.get('threads', '?')} threads, {summary.get('precision', '?')}"))
    return facts


def settings(config: RunConfig) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Every hyper-parameter by topic: (topic, (field, value, meaning))."""
    topics = {"run": "Run", "data": "Data", "augment": "Augmentation", "model": "Model", "optim": "Optimization"}
    own: list[tuple[str, str, str]] = []
    found = [(topics["run"], own)]
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            found.append((topics[name], [_setting(f"{name}.", value, each) for each in type(value).model_fields]))
        elif name != "run":
            own.append((name, _text(value), info.description or ""))
    return found


def _fixed(record: Record) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The topic of the recipe's numbers that are no options, by the run's own record; nothing where it has none."""
    constants = [
        (f"{where}: {name}", f"{value:g}", "")
        for where, values in record.environment.get("fixed", {}).items()
        for name, value in values.items()
    ]
    return [("Fixed, no options", constants)] if constants else []


def _setting(prefix: str, model: BaseModel, name: str) -> tuple[str, str, str]:
    return prefix + name, _text(getattr(model, name)), type(model).model_fields[name].description or ""


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _environment(record: Record) -> list[tuple[str, str]]:
    found = []
    for name, value in record.environment.items():
        if name == "packages" and isinstance(value, dict):
            text = ", ".join(f"{package} {version}" for package, version in value.items())
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if name not in ("command", "fixed"):
            found.append((name.replace("_", " "), text or "none"))
    return found


def again(record: Record) -> str:
    """The command that runs the same configuration again."""
    return f"dynconv train --config {shlex.quote(str(record.path / 'config.yaml'))}"
