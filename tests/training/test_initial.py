"""Training from weights: what is taken over, what is new, and what stays as it is."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, WORDS, train

from dynconv import api
from dynconv.artifacts.weights import Weights, load_weights
from dynconv.cli.main import main
from dynconv.data import Dataset, shapes
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.training.initial import freeze, take_over
from dynconv.training.optim import part_of
from dynconv.training.trainer import Trainer

SOFTMAX = ModelConfig(widths=(8, 8, 16), pools=(2,), experts=2, router_hidden=(4,), squeeze_excite=(4,), norm="none")
CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes.generate(0, 600, 100)


def network(model: ModelConfig, classes: int = 10) -> Net:
    net = Net(model, classes)
    net.input.fit(torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8))
    return net.eval()


def weights_of(net: Net, model: ModelConfig, classes: tuple[str, ...] = CLASSES) -> Weights:
    return Weights(net.state_dict(), model, classes, "shapes")


def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", [CONFIG.model, SOFTMAX])
def test_the_same_network_computes_the_same(model: ModelConfig) -> None:
    old, new = network(model), network(model)
    said = take_over(new, CLASSES, weights_of(old, model))

    assert torch.equal(old(images()), new(images()))
    assert "head: taken" in said and all("experts" in line for line in said[:-1])


@pytest.mark.parametrize("model", [CONFIG.model, SOFTMAX])
def test_split_experts_mix_to_nearly_what_the_one_was_and_can_part(model: ModelConfig) -> None:
    old = network(model)
    new = network(model.model_copy(update={"experts": (6,)}))
    said = take_over(new, CLASSES, weights_of(old, model))
    bank, before = (net.backbone[0].conv.weight.detach() for net in (new, old))

    assert said[0].startswith("block 1: experts (each split into 3), ")
    torch.testing.assert_close(new.routing_weights(images())[0].view(5, 2, 3).sum(2), old.routing_weights(images())[0])
    assert (old(images()) - new(images())).abs().max() < 0.2 * old(images()).std() + 0.02
    assert all(not torch.equal(bank[0], bank[k]) for k in (1, 2))
    torch.testing.assert_close(bank[:3].mean(0), before[0], atol=0.2 * float(before.std()), rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths": (8, 4)}, ["block 1: experts, router, normalisation taken", "block 2: new"]),
        ({"experts": (3,)}, "init: these weights have K = 2, which 3 does not fit; set model.experts to 2"),
        ({"gate": ("sigmoid",), "experts": (4,)}, "set model.experts to 2, as this gate needs"),
        ({"widths": (4, 8)}, "init: no block of these weights has the shape of one here"),
        ({"widths": (8, 8, 8), "pools": (4, 2, 1)}, ["block 2: experts, router, normalisation taken", "block 3: new"]),
    ],
)
def test_what_does_not_fit_is_new(change: dict[str, Any], said: list[str] | str) -> None:
    old, new = network(CONFIG.model), network(CONFIG.model.model_copy(update=change))
    if isinstance(said, str):
        with pytest.raises(DynconvError, match=said):
            take_over(new, CLASSES, weights_of(old, CONFIG.model))
    else:
        assert set(said) <= set(take_over(new, CLASSES, weights_of(old, CONFIG.model)))


@pytest.mark.parametrize(
    ("before", "after"), [({}, {"whiten": False}), ({"whiten": False}, {"grey": True, "whiten": False})]
)
def test_other_preprocessing_is_refused(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = (network(CONFIG.model.model_copy(update=fields)) for fields in (before, after))

    with pytest.raises(DynconvError, match="init: these weights were trained with other preprocessing"):
        take_over(new, CLASSES, weights_of(old, CONFIG.model))


def test_other_classes_have_a_new_head() -> None:
    old = network(CONFIG.model)
    for classes in (("x", "y"), ("j", *CLASSES[:-1])):  # fewer; the same in another order
        new = network(CONFIG.model, len(classes))
        before = new.head.linear.weight.clone()

        said = take_over(new, classes, weights_of(old, CONFIG.model))

        assert said[-1] == f"head: new, for other classes ({len(classes)} here, 10 there)"
        assert torch.equal(new.head.linear.weight, before)


def test_a_last_block_of_another_width_has_a_new_head_for_the_same_classes() -> None:
    model = CONFIG.model.model_copy(update={"widths": (*CONFIG.model.widths[:-1], CONFIG.model.widths[-1] * 2)})

    said = take_over(network(model), CLASSES, weights_of(network(CONFIG.model), CONFIG.model))

    assert said[-1] == "head: new, for another shape"


@pytest.mark.parametrize("names", [("block1",), ("experts", "biases"), ("head", "routers"), ("block1", "block2")])
@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_what_is_frozen_stays_as_it_is(
    tmp_path: Path, dataset: Dataset, names: tuple[str, ...], optimizer: str
) -> None:
    optim = CONFIG.optim.model_copy(update={"name": optimizer, "lr": 0.05})
    frozen, _ = train(tmp_path / "frozen", dataset, tta=False, epochs=1, freeze=names, optim=optim)
    torch.manual_seed(0)
    start = Net(CONFIG.model, 10)
    before, after = start.state_dict(), load_weights(frozen.weights).state
    learned = {name for name, _ in start.named_parameters()} - {"backbone.0.norm.weight", "backbone.1.norm.weight"}
    for name in learned:
        still = f"block{int(name.split('.')[1]) + 1}" in names if name.startswith("backbone") else False
        assert torch.equal(before[name], after[name]) == (still or part_of(name) in names), name
    for number in (1, 2):
        statistics = f"backbone.{number - 1}.norm.running_mean"
        assert torch.equal(before[statistics], after[statistics]) == (f"block{number}" in names)


def test_nothing_left_to_learn_is_refused() -> None:
    with pytest.raises(DynconvError, match="freeze: block1, block2, head leave nothing to learn"):
        freeze(Net(CONFIG.model, 10), ("block1", "block2", "head"))


def test_the_backbone_can_learn_more_slowly(tmp_path: Path, dataset: Dataset) -> None:
    optim = CONFIG.optim.model_copy(update={"backbone_rate": 0.1})
    run, _ = train(tmp_path / "slow", dataset, tta=False, epochs=1, optim=optim)

    first = run.metrics().steps[0].lr
    assert first["experts"] == pytest.approx(0.1 * optim.lr) and first["head"] == pytest.approx(optim.head_lr)
    assert first["routers"] == pytest.approx(0.1 * optim.router_lr)


def test_from_the_command_line_the_network_is_that_of_the_weights(
    tmp_path: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dynconv")
    words = ["train", "quick", "--data", "shapes", "--epochs", "1", "--image-sizes", "16", "--no-report", "--no-tta"]
    assert main([*words, "--init", str(trained), "--freeze", "block1", "--run", str(tmp_path / "run")]) == 0

    assert "  block 1: experts, router, normalisation taken" in caplog.messages and "  head: taken" in caplog.messages
    old, new = Predictor.load(trained), Predictor.load(tmp_path / "run")
    assert old.model == new.model and new.provenance.endswith(", from first")
    assert torch.equal(old.net.backbone[0].conv.weight, new.net.backbone[0].conv.weight)
    assert torch.equal(old.net.input.whitening, new.net.input.whitening)


def test_a_run_from_weights_goes_on_without_them(tmp_path: Path, trained: Path) -> None:
    moved = tmp_path / "weights.safetensors"
    moved.write_bytes((trained / "weights.safetensors").read_bytes())
    run = tmp_path / "run"
    assert main(["train", "quick", *WORDS, "--no-report", "--no-tta", "--init", str(moved), "--run", str(run)]) == 0
    losses = [line.loss for line in api.Run(run)._run.metrics().steps]
    for name in ("summary.json", "weights.safetensors"):
        (run / name).unlink()
    moved.unlink()
    (run / "state-before.pt").replace(run / "state.pt")  # of the epoch before the last

    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert [line.loss for line in api.Run(run)._run.metrics().steps] == losses


def test_what_was_killed_before_its_first_state_starts_from_the_weights_again(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["train", "quick", *WORDS, "--no-report", "--no-tta", "--init", str(trained)]
    assert main([*words, "--run", str(tmp_path / "whole")]) == 0

    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "fit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*words, "--run", str(tmp_path / "run")])
    caplog.clear()
    caplog.set_level(logging.INFO, "dynconv")
    assert main(["train", "--resume", str(tmp_path / "run"), "--no-report"]) == 0

    assert "  head: taken" in caplog.messages
    losses, whole = ([line.loss for line in api.Run(tmp_path / name)._run.metrics().steps] for name in ("run", "whole"))
    assert losses == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--init", "TRAINED", "--model.experts", "3"], "these weights have K = 2, which 3 does not fit"),
        (["--init", "TRAINED", "--model.grey"], "init: these weights were trained with other preprocessing"),
        (["--freeze", "experts", "routers", "biases", "head"], "leave nothing to learn"),
        (
            ["--init", "/nowhere"],
            "/nowhere: does not exist; name a run directory, a weights file, or accurate or standard",
        ),
        (["--freeze", "block9"], "freeze: must be of block1 to block2, experts, routers, biases, head, not block9"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_run(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    words = [str(trained) if word == "TRAINED" else word for word in words]
    assert main(["train", "quick", *WORDS, *words, "--run", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()
