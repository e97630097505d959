from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dynconv.artifacts.records import Config
from dynconv.artifacts.weights import Weights
from dynconv.data import Dataset, shapes
from dynconv.inference.explain import Ablation
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.model.routing_statistics import IDLE
from dynconv.report.record import RunRecord
from dynconv.report.section import Content
from dynconv.report.sections import experts, routing
from dynconv.report.subject import Subject


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes.generate(0, 20, 40)


def subject(dataset: Dataset, count: int, a_NK: Tensor | None = None) -> Subject:
    """Of an untrained network of one block; its routing weights are `a_NK` where that is given."""
    torch.manual_seed(0)
    model = ModelConfig(widths=(4,), pools=(4,), experts=count, whiten=False)
    net = Net(model, len(dataset.classes))
    net.input.fit(dataset.train.images)
    weights = Weights(net.state_dict(), model, dataset.classes, "shapes", "made up")
    predictor = Predictor(net, weights, torch.device("cpu"), "fp32")
    config = Config(seed=0, epochs=1, image_sizes=(32,), tta=False, model=model)
    made = Subject(RunRecord(Path("x"), config), predictor, dataset)
    if a_NK is not None:
        assert made.routing is not None
        made.routing.weights[:] = [a_NK]
    return made


def values(content: Content | None) -> dict[str, object]:
    assert content is not None
    return content.values


def test_a_finding_is_the_one_that_training_warns_of(dataset: Dataset, figures: dict[str, Figure]) -> None:
    sign = torch.tensor([1.0, -1.0]).repeat(20)[:, None] * torch.tensor([1.0, -1.0])

    remarks = []
    for spread in (0.9 * IDLE, 1.1 * IDLE):
        (row,) = values(routing.make(subject(dataset, 2, 0.5 + spread * sign)))["usage"]  # type: ignore[misc, attr-defined]
        remarks.append(row["remark"])
        assert row["strongest"] == [0.5, 0.5]

    assert remarks == ["idle: the same mixture for every image", ""]


def test_one_expert_has_nothing_to_route(dataset: Dataset, figures: dict[str, Figure]) -> None:
    lone = subject(dataset, 1)

    routing.make(lone)

    assert lone.routing is not None and "nothing to route" in lone.routing.verdict
    assert "ablation" not in figures and values(experts.make(lone))["exciting"] == []


def test_an_expert_is_shown_with_the_images_that_it_weighs_most_in(
    dataset: Dataset, figures: dict[str, Figure]
) -> None:
    first = torch.arange(40) / 50
    made = subject(dataset, 2, torch.stack((first, 1 - first), 1))

    exciting = values(experts.make(made))["exciting"]

    assert isinstance(exciting, list) and [name for name, _ in exciting] == ["block 1, expert 1", "block 1, expert 2"]
    assert made.routing is not None
    labels = made.routing.sample.labels
    for (_, shown), order in zip(exciting, (range(39, 33, -1), range(6)), strict=True):
        assert [image.lines[0] for image in shown] == [dataset.classes[int(labels[i])] for i in order]
    assert [image.lines[1] for image in exciting[0][1]][:2] == ["0.78", "0.76"]


def test_the_ablation_shows_each_replacement_with_its_interval(figures: dict[str, Figure]) -> None:
    mean, shuffled, uniform = Ablation(0.5, 0.25, 0.125), Ablation(0.25, 0.5, 0.0625), Ablation(0.625, 0.125, 0)

    routing.ablation(0.75, {"mean": mean, "shuffled": shuffled, "uniform": uniform})

    axes = figures["ablation"].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [75, 50, 25, 62.5]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "unchanged: 75.0%", "mean: 50.0%", "another image's: 25.0%", "uniform, 1/K: 62.5%",
    ]  # fmt: skip
    intervals = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]  # type: ignore[attr-defined]
    assert intervals == [[75, 75], [37.5, 62.5], [18.75, 31.25], [62.5, 62.5]]
