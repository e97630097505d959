"""Training itself, on a tiny network and a few drawn images."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from dynconv.artifacts import rundir
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.config import ModelConfig, OptimConfig, RunConfig
from dynconv.data import Dataset, Split, hold_out, shapes
from dynconv.errors import DynconvError
from dynconv.model.net import build_net
from dynconv.training import trainer as loop
from dynconv.training.device import place
from dynconv.training.progress import Progress
from dynconv.training.trainer import fit, routing_statistics

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


def exploding(patch: pytest.MonkeyPatch, exploding_step: int) -> None:
    """Has the update of one step (from 1) break the weights; the others have the rates of a run of one epoch."""
    plain_factor, plain_rates, done = loop.lr_factor, loop.set_learning_rates, [0]

    def set_rates(optimizers: list[Any], factor: float) -> dict[str, float]:
        done[0] += 1
        rates = plain_rates(optimizers, factor)
        if done[0] == exploding_step:
            plain_rates(optimizers, float("inf"))
        return rates

    patch.setattr(loop, "lr_factor", lambda step, _, config: plain_factor(min(step, 5), 6, config))
    patch.setattr(loop, "set_learning_rates", set_rates)


@pytest.mark.parametrize(
    ("exploding_step", "epochs", "said"),
    [
        (9, 1, "the loss is not finite at step 10 (epoch 2)"),
        (12, 1, "the weights are not finite after step 12 (epoch 2)"),  # the last of the run
        (6, 0, "the weights are not finite after step 6 (epoch 1)"),  # the last of an epoch
    ],
)
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_is_not_finite_stops_with_the_last_good_state(
    tmp_path: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str], exploding_step: int, epochs: int, said: str,
    ema: float,
) -> None:  # fmt: skip
    optim = OptimConfig(ema=ema)
    run = RunDir.create(TINY.model_copy(update={"run": tmp_path / "bad", "optim": optim, "tta": False}), "shapes")
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        exploding(patch, exploding_step)
        summary = fit(run.config, dataset, run, progress)

    assert summary["stopped_by"] == "non-finite loss" and not summary["finished"] and summary["epochs"] == epochs
    assert [record["text"] for record in records(run, "warning")] == [said]
    assert f"{said}: stopped; the weights are those after epoch {epochs}" in capfd.readouterr().err
    assert run.summary() is not None and "NaN" not in (run.path / "metrics.jsonl").read_text()
    for saved in (load_weights(run.weights).state, load_state(run.state)["net"]):
        assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    if not epochs or ema:
        return
    good, _ = train(tmp_path / "good", dataset, epochs=1, tta=False)
    state, expected = load_weights(run.weights).state, load_weights(good.weights).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_resumed_with_dropout_ends_as_if_never_interrupted(tmp_path: Path, dataset: Dataset) -> None:
    model = TINY.model.model_copy(update={"dropout": 0.3})
    whole, _ = train(tmp_path / "whole", dataset, model=model, tta=False)
    run = RunDir.create(TINY.model_copy(update={"run": tmp_path / "run", "model": model, "tta": False}), "shapes")
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:

        class Interrupting(Progress):
            def step(self, step: int, *figures: float) -> None:
                if step == 8:
                    signal.raise_signal(signal.SIGINT)

        assert fit(run.config, dataset, run, Interrupting())["stopped_by"] == "interrupt"
        patch.setattr(run, "write_summary", lambda _: None)
        fit(run.config, dataset, run, progress, resume=True)

    assert run.summary() is None  # the summary of the interrupted run does not outlast its resumption
    state, expected = load_weights(run.weights).state, load_weights(whole.weights).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_routing_that_is_the_same_for_every_image_warns_after_the_last_epoch(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def idle(config: ModelConfig, classes: int) -> Any:
            net = build_net(config, classes)
            torch.nn.init.zeros_(net.backbone[1].conv.router.linear.weight)
            return net

        patch.setattr(loop, "build_net", idle)
        run, _ = train(tmp_path, dataset, optim=OptimConfig(router_lr=1e-9), tta=False)

    (warning,) = records(run, "warning")
    assert warning["step"] == 12
    assert warning["text"].startswith("block 2: the routing weights are the same for every image (standard deviation")


def test_a_full_disk_is_one_line_that_says_how_to_go_on(
    tmp_path: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for what, name, named in ((RecordWriter, "write", "tensorboard"), (rundir.json, "dumps", "metrics.jsonl")):
        config = TINY.model_copy(update={"run": tmp_path / named})
        run = RunDir.create(config, dataset.name)
        with pytest.MonkeyPatch.context() as patch, Progress() as progress:
            patch.setattr(what, name, full)
            with pytest.raises(DynconvError) as caught:
                fit(config, dataset, run, progress)
        text = f"{run.path / named}: cannot be written (No space left on device); free some space, then go on with"
        assert str(caught.value) == f"{text} --resume {run.path}"
        assert "Traceback" not in capfd.readouterr().err  # the event files have a thread of their own


def test_images_stay_in_main_memory_where_the_gpu_has_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    cuda = torch.device("cuda")
    for free, expected in ((2 * 480 - 1, []), (2 * 480, [cuda, cuda])):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        assert place(split, cuda) == split
        assert moved == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_in_main_memory_train_the_same_network(tmp_path: Path, dataset: Dataset) -> None:
    losses = []
    for free in (10**9, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
            run, summary = train(tmp_path / str(free), hold_out(dataset, 100, 0), device="cuda")
        assert summary["device"].startswith("cuda") and summary["finished"]
        losses.append([record["loss"] for record in records(run, "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


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
    from dynconv.inference.predictor import Classifier

    accuracy = (Classifier.load(run.path).logits(dataset.test.images).argmax(1) == dataset.test.labels).float().mean()
    assert float(accuracy) == pytest.approx(averaged["test_accuracy"])


def test_a_collapsed_router_warns(tmp_path: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def collapsed(config: ModelConfig, classes: int) -> Any:
            net = build_net(config, classes)
            net.backbone[1].conv.router.linear.bias.data = torch.tensor([50.0, 0.0])
            return net

        patch.setattr(loop, "build_net", collapsed)
        run, _ = train(tmp_path, dataset, epochs=1)

    assert [record["text"] for record in records(run, "warning") if "collapsed" in record["text"]] == [
        "block 2: the router has collapsed onto one expert; lower optim.router_lr"
    ]
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


def test_bf16_trains(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are those of fp32 to within the rounding of 8 bits, and not exactly; its weights stay fp32. The
    routing is recorded as it is in training."""
    losses, routed_in_bf16 = {}, []

    def noting(*arguments: Any) -> Any:
        routed_in_bf16.append(torch.is_autocast_enabled("cpu"))
        return routing_statistics(*arguments)

    monkeypatch.setattr(loop, "routing_statistics", noting)
    for precision in ("fp32", "bf16"):
        run, summary = train(tmp_path / precision, dataset, epochs=1, precision=precision, tta=False)
        losses[precision] = [record["loss"] for record in records(run, "step")]
        assert summary["precision"] == precision

    assert losses["bf16"][0] != losses["fp32"][0] and losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)
    assert losses["bf16"][-1] < losses["bf16"][0]
    assert {tensor.dtype for tensor in load_weights(run.weights).state.values()} == {torch.float32, torch.int64}
    assert routed_in_bf16 == [False, True]
