"""Training itself, on a tiny network and a few drawn images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv.config import ModelConfig, OptimConfig, RunConfig
from dynconv.data import Dataset, hold_out, shapes
from dynconv.nn.net import build_net
from dynconv.training.checkpoint import load_weights
from dynconv.training.loop import fit, routing_statistics
from dynconv.training.progress import Progress
from dynconv.training.rundir import RunDir

TINY = RunConfig(
    epochs=2,
    batch_size=100,
    micro_batch=50,
    image_sizes=(16,),
    model=ModelConfig(widths=(8, 8), pools=(4, 2), experts=2),
    precision="fp32",
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes.generate(0, 600, 200)


def train(path: Path, dataset: Dataset, **changes: object) -> tuple[RunDir, dict[str, Any]]:
    config = TINY.model_copy(update={"run": path, **changes})
    run = RunDir.create(config, dataset.name)
    with Progress() as progress:
        return run, fit(config, dataset, run, progress)


def records(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [record for record in run.metrics() if record["kind"] == kind]


def test_every_step_and_every_epoch_is_recorded_and_names_its_data(tmp_path: Path, dataset: Dataset) -> None:
    run, summary = train(tmp_path, hold_out(dataset, 100, 0))
    steps, epochs = records(run, "step"), records(run, "epoch")

    assert [record["step"] for record in steps] == list(range(1, 11)) and len(epochs) == 2
    assert all(record["data"] == "shapes" for record in run.metrics())
    assert set(steps[0]["lr"]) == {"experts", "routers", "biases", "classifier"}
    assert steps[0]["lr"]["experts"] > steps[-1]["lr"]["experts"]
    for split in ("train", "test", "validation"):
        assert 0 <= epochs[-1][f"{split}_accuracy"] <= 1 and epochs[-1][f"{split}_loss"] > 0
    assert [sorted(block) for block in epochs[-1]["routing"]] == [["block", "entropy", "mean", "std"]] * 2
    assert summary["test_accuracy"] == epochs[-1]["test_accuracy"] and summary["finished"]
    needed = "preset data seed epochs test_accuracy test_accuracy_tta train_seconds parameters multiply_adds device"
    assert set(needed.split()) <= summary.keys()
    assert list(run.tensorboard.iterdir())


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(tmp_path: Path, dataset: Dataset) -> None:
    """The learning rate lets the first epoch pass, the patched schedule explodes in the second."""
    good, _ = train(tmp_path / "good", dataset, epochs=1)
    run = RunDir.create(TINY.model_copy(update={"run": tmp_path / "bad"}), "shapes")
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        from dynconv.training import loop

        plain = loop.lr_factor
        patch.setattr(
            loop, "lr_factor", lambda step, _, config: float("inf") if step == 8 else plain(min(step, 5), 6, config)
        )
        summary = fit(run.config, dataset, run, progress)

    assert summary["stopped_by"] == "non-finite loss" and not summary["finished"] and summary["epochs"] == 1
    (warning,) = records(run, "warning")
    assert warning["step"] == 10 and "step 10 (epoch 2)" in warning["text"]
    state, expected = load_weights(run.weights).state, load_weights(good.weights).state
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_loss_that_is_not_finite_in_the_first_epoch_leaves_the_initial_weights(
    tmp_path: Path, dataset: Dataset
) -> None:
    optim = OptimConfig(name="sgd", lr=1e30, weight_decay=0.0)
    run, summary = train(tmp_path / "bad", dataset, optim=optim, model=TINY.model.model_copy(update={"norm": "none"}))

    assert summary["stopped_by"] == "non-finite loss" and summary["epochs"] == 0
    assert all(torch.isfinite(tensor).all() for tensor in load_weights(run.weights).state.values())
    assert 0 <= summary["test_accuracy"] <= 1


def test_micro_batches_add_up_to_the_batch(tmp_path: Path, dataset: Dataset) -> None:
    """Without batch norm, which averages within a micro-batch, splitting a batch changes nothing but rounding."""
    model = TINY.model.model_copy(update={"norm": "none"})
    optim = OptimConfig(name="sgd", lr=0.1)
    losses = []
    for micro_batch in (100, 20):
        run, _ = train(
            tmp_path / str(micro_batch), dataset, micro_batch=micro_batch, model=model, optim=optim, epochs=1
        )
        losses.append([record["loss"] for record in records(run, "step")])

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_average_of_the_weights_is_what_is_saved_and_evaluated(tmp_path: Path, dataset: Dataset) -> None:
    _, plain = train(tmp_path / "plain", dataset)
    run, averaged = train(tmp_path / "averaged", dataset, optim=OptimConfig(ema=0.9))
    losses = [
        [record["loss"] for record in records(RunDir.open(tmp_path / name), "step")] for name in ("plain", "averaged")
    ]

    assert losses[0] == losses[1], "averaging does not change the training itself"
    assert averaged["test_loss"] != plain["test_loss"]
    from dynconv.using.classifier import Classifier

    accuracy = (Classifier.load(run.path).logits(dataset.test.images).argmax(1) == dataset.test.labels).float().mean()
    assert float(accuracy) == pytest.approx(averaged["test_accuracy"])


def test_a_collapsed_router_warns(tmp_path: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        from dynconv.training import loop

        def collapsed(config: ModelConfig, classes: int) -> Any:
            net = build_net(config, classes)
            net.backbone[1].conv.router.linear.bias.data = torch.tensor([50.0, 0.0])
            return net

        patch.setattr(loop, "build_net", collapsed)
        run, _ = train(tmp_path, dataset, epochs=1)

    assert [record["text"][:7] for record in records(run, "warning")] == ["block 2"]
    assert "block 2: the router has collapsed" in capfd.readouterr().err


def test_routing_statistics_are_those_of_the_weights() -> None:
    torch.manual_seed(0)
    net = build_net(ModelConfig(widths=(8,), pools=(1,), experts=3), 10)
    torch.nn.init.normal_(net.backbone[0].conv.router.linear.weight)
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    net.input.fit(images / 255)

    (block,) = routing_statistics(net, images)

    a = net.backbone[0].conv.routing_weights(net.input(images / 255)).detach()
    torch.testing.assert_close(torch.tensor(block["mean"]), a.mean(0))
    assert block["std"] == pytest.approx(float(a.std(0, correction=0).mean()), rel=1e-4)
    assert 0 < block["entropy"] < 1


def test_bf16_trains(tmp_path: Path, dataset: Dataset) -> None:
    run, summary = train(tmp_path, dataset, epochs=1, precision="bf16")

    assert summary["precision"] == "bf16" and summary["test_accuracy"] > 0
    assert load_weights(run.weights).state["classifier.linear.weight"].dtype == torch.float32
