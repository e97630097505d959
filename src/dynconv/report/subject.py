"""The inputs of the page about a run: its record, its network and its images, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from dynconv.data import Dataset, Split
from dynconv.inference import explain
from dynconv.inference.explain import Ablation
from dynconv.inference.predictor import Predictor
from dynconv.inference.trained_data import load_dataset
from dynconv.model import describe
from dynconv.model.cost import Row
from dynconv.report.record import RunRecord, attempt
from dynconv.report.results import Results, results

ROUTED = 2000
"""Number of random test images over which the routing and its ablations are measured."""


@dataclass(frozen=True)
class Routing:
    """What the routing of a network does over some images.

    Attributes:
        weights: a of each block, [N, K].
        accuracy: 0..1, without test-time augmentation.
        ablations: the accuracy with other routing weights, by their name.
        verdict: one sentence on whether the routing matters.
    """

    sample: Split
    weights: list[Tensor]
    accuracy: float
    ablations: dict[str, Ablation]
    verdict: str


@dataclass(frozen=True)
class Subject:
    """A run, as its page shows it. What could not be read is None, and `record.problems` says why.

    Attributes:
        meanings: the help text of each hyper-parameter, by its dotted name.
    """

    record: RunRecord
    predictor: Predictor | None = None
    dataset: Dataset | None = None
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; empty if neither the network nor the predictions are readable."""
        if self.predictor:
            return self.predictor.classes
        return self.record.predictions.classes if self.record.predictions else ()

    @cached_property
    def rows(self) -> list[Row]:
        """The layers of the network, with shapes and costs."""
        side = self.predictor.frame.size if self.predictor else 32
        return describe.rows(self.record.config.model, len(self.classes) or 10, side)

    @cached_property
    def results(self) -> Results | None:
        """The figures of the run's predictions; None without them."""
        return results(self.record.predictions) if self.record.predictions else None

    @cached_property
    def routing(self) -> Routing | None:
        """What the routing does; None without the network or the images."""
        if self.predictor is None or self.dataset is None:
            return None
        sample = self.dataset.test.sample(ROUTED)
        sample = Split(sample.images.cpu(), sample.labels.cpu())
        weights = explain.routing_weights(self.predictor, sample.images)
        accuracy, ablations = explain.ablate(self.predictor, sample.images, sample.labels, weights)
        verdict = explain.verdict(accuracy, ablations, max(self.predictor.model.experts), len(sample.labels))
        return Routing(sample, weights, accuracy, ablations, verdict)


def read_subject(record: RunRecord, data: str | None, dataset: Dataset | None, meanings: Mapping[str, str]) -> Subject:
    """Loads the network, and the images unless they are given; adds any problems to the record's."""
    predictor = attempt(lambda: Predictor.load(record.path), None, record.problems)
    if predictor and dataset is None:
        dataset = attempt(lambda: load_dataset(predictor, data, split="validation"), None, record.problems)
    if dataset and record.predictions and not torch.equal(dataset.test.labels.cpu(), record.predictions.labels):
        record.problems.append(f"{dataset.origin}: its test labels are not those of predictions.npz; give --data")
        dataset = None
    return Subject(record, predictor, dataset, meanings)
