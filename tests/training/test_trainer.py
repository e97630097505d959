"""Training itself, on a tiny network and a few drawn images."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter
from tiny import CONFIG, WORDS, create, train

from dynconv.artifacts import rundir
from dynconv.artifacts.records import EpochLine
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.cli.main import main
from dynconv.data import Dataset, Split, hold_out, shapes
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.training import learner, trainer
from dynconv.training.config import OptimConfig, TrainConfig
from dynconv.training.memory import OutOfMemoryError
from dynconv.training.process import place
from dynconv.training.progress import Progress
from dynconv.training.trainer import Trainer


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes.generate(0, 600, 200)


def warnings_of(run: RunDir) -> list[str]:
    return [line.text for line in run.metrics().warnings]


def test_every_step_and_every_epoch_is_recorded_and_names_its_data(tmp_path: Path, dataset: Dataset) -> None:
    run, summary = train(tmp_path, hold_out(dataset, 100, 0))
    metrics = run.metrics()

    assert [line.step for line in metrics.steps] == list(range(1, 11)) and len(metrics.epochs) == 2
    assert all(line.data == "shapes" for line in (*metrics.steps, *metrics.epochs))
    assert set(metrics.steps[0].lr) == {"experts", "routers", "biases", "head"}
    assert metrics.steps[0].lr["experts"] > metrics.steps[-1].lr["experts"]
    last = metrics.epochs[-1]
    assert 0 <= last.train_accuracy <= 1 and last.train_loss > 0 and last.test_loss > 0
    assert last.validation_accuracy is not None and last.validation_loss is not None and last.validation_loss > 0
    assert [block.block for block in last.routing] == [1, 2] and len(last.routing[0].mean) == 2
    assert summary.test_accuracy == last.test_accuracy and summary.finished and summary.version
    assert summary.validation_accuracy == last.validation_accuracy
    assert run.summary() is not None and list(run.tensorboard.iterdir())


def test_routing_weights_that_become_negative_are_recorded_like_others(tmp_path: Path, dataset: Dataset) -> None:
    model = CONFIG.model.model_copy(update={"gate": ("none",)})
    run, summary = train(tmp_path, dataset, model=model, optim=OptimConfig(router_lr=0.5))
    blocks = run.metrics().epochs[-1].routing

    assert summary.finished and min(min(block.mean) for block in blocks) < 0
    assert all(0 <= block.entropy <= 1.001 for block in blocks)


def test_the_routing_of_an_epoch_is_that_of_all_classes(tmp_path: Path, dataset: Dataset) -> None:
    """Data of class folders come class by class: the first images are all of one class."""
    order = dataset.test.labels.argsort()
    by_class = Split(dataset.test.images[order], dataset.test.labels[order])
    seen = []

    def noting(net: Net, images: torch.Tensor) -> Any:
        seen.append(images)
        return plain(net, images)

    plain = learner.routing_statistics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "routing_statistics", noting)
        patch.setattr(trainer, "ROUTING_IMAGES", 50)
        train(tmp_path, Dataset("shapes", dataset.classes, dataset.train, by_class, "here"), epochs=1, tta=False)

    places = [next(i for i, one in enumerate(by_class.images) if torch.equal(one, image)) for image in seen[0]]
    assert len(set(by_class.labels[places].tolist())) >= 8


def exploding(patch: pytest.MonkeyPatch, exploding_step: int) -> None:
    """Has the update of one step (from 1) break the weights; the others have the rates of a run of one epoch."""
    plain_factor, plain_rates, done = trainer.lr_factor, trainer.set_learning_rates, [0]

    def set_rates(optimizers: list[Any], factor: float) -> dict[str, float]:
        done[0] += 1
        rates = plain_rates(optimizers, factor)
        if done[0] == exploding_step:
            plain_rates(optimizers, float("inf"))
        return rates

    patch.setattr(trainer, "lr_factor", lambda step, _, config: plain_factor(min(step, 5), 6, config))
    patch.setattr(trainer, "set_learning_rates", set_rates)


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
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture, exploding_step: int, epochs: int, said: str,
    ema: float,
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        exploding(patch, exploding_step)
        run, summary = train(tmp_path / "bad", dataset, optim=OptimConfig(ema=ema), tta=False)

    assert summary.stopped_by == "non-finite loss" and not summary.finished and summary.epochs == epochs
    assert warnings_of(run) == [said]
    assert f"{said}: stopped; the weights are those after epoch {epochs}" in caplog.messages
    assert run.summary() is not None and "NaN" not in (run.path / "metrics.jsonl").read_text()
    for saved in (load_weights(run.weights).state, load_state(run.state)["net"]):
        assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    if not epochs or ema:
        return
    good, _ = train(tmp_path / "good", dataset, epochs=1, tta=False)
    state, expected = load_weights(run.weights).state, load_weights(good.weights).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def exploding_above(patch: pytest.MonkeyPatch, largest: float) -> None:
    """From step 8 on, an update at more than this share of the learning rates breaks the weights."""
    plain, done = trainer.set_learning_rates, [0]

    def set_rates(optimizers: list[Any], factor: float) -> dict[str, float]:
        done[0] += 1
        rates = plain(optimizers, factor)
        if done[0] >= 8 and factor > largest:
            plain(optimizers, float("inf"))
        return rates

    patch.setattr(trainer, "set_learning_rates", set_rates)


def test_what_is_not_finite_can_go_on_at_half_the_learning_rates(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exploding_above(patch, 0.33)
        run, summary = train(tmp_path / "run", dataset, on_nan="restart", tta=False)

    assert summary.finished and summary.epochs == 2
    said = "the loss is not finite at step 9 (epoch 2): going on from epoch 1 with 1/2 of the learning rates"
    assert warnings_of(run) == [said] and said in caplog.messages
    steps = run.metrics().steps
    assert [line.step for line in steps] == list(range(1, 13))
    assert steps[6].lr["experts"] == pytest.approx(CONFIG.optim.lr * 0.5 / 2)


def test_what_is_never_finite_stops_in_the_end(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exploding_above(patch, 0.0)
        run, summary = train(tmp_path / "run", dataset, on_nan="restart", tta=False)

    assert summary.stopped_by == "non-finite loss" and summary.epochs == 1
    assert len(warnings_of(run)) == trainer.MOST_RESTARTS + 1


def test_resumed_with_dropout_ends_as_if_never_interrupted(tmp_path: Path, dataset: Dataset) -> None:
    model = CONFIG.model.model_copy(update={"dropout": 0.3})
    config = CONFIG.model_copy(update={"model": model, "tta": False})
    whole, _ = train(tmp_path / "whole", dataset, model=model, tta=False)
    run = create(tmp_path / "run", config)

    class Interrupting(Progress):
        def step(self, step: int, *figures: float) -> None:
            if step == 8:
                signal.raise_signal(signal.SIGINT)

    assert Trainer(config, dataset, run, Interrupting()).fit().stopped_by == "interrupt"
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        patch.setattr(run, "write_summary", lambda _: None)
        Trainer(config, dataset, run, progress).fit(resume=True)

    assert run.summary() is None  # the summary of the interrupted run does not outlast its resumption
    state, expected = load_weights(run.weights).state, load_weights(whole.weights).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def idle(config: ModelConfig, classes: int) -> Net:
    """A network whose second block routes every image alike."""
    net = Net(config, classes)
    torch.nn.init.zeros_(net.backbone[1].conv.router.linear.weight)
    return net


@pytest.mark.parametrize(
    ("optim", "advice"),
    [
        (OptimConfig(router_lr=1e-9), "raise optim.router_lr"),
        (OptimConfig(name="sgd", lr=1e-9, weight_decay=0.0), "raise optim.lr"),
    ],
)
def test_routing_that_is_the_same_for_every_image_warns_after_the_last_epoch(
    tmp_path: Path, dataset: Dataset, optim: OptimConfig, advice: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Net", idle)
        run, _ = train(tmp_path, dataset, optim=optim, tta=False)

    (warning,) = (line for line in run.metrics().warnings if "block 2" in line.text)
    assert warning.step == 12 and advice in warning.text, "advice that the preset's optimizer can follow"
    assert warning.text.startswith("block 2: the routing weights are the same for every image (standard deviation")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_that_says_how_to_go_on(tmp_path: Path, dataset: Dataset) -> None:
    run = create(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        patch.setattr(rundir.json, "dumps", full)
        with pytest.raises(DynconvError) as caught:
            Trainer(CONFIG, dataset, run, progress).fit()

    text = f"{run.path / 'metrics.jsonl'}: cannot be written (No space left on device); free some space, then continue"
    assert str(caught.value) == f"{text} with --resume {run.path}"


@pytest.mark.parametrize("name", ["write", "__init__"])
def test_training_goes_on_where_only_the_event_log_cannot_be_written(
    tmp_path: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordWriter, name, full)
        run, summary = train(tmp_path / "run", dataset)

    assert summary.finished and len(run.metrics().steps) == 12
    (said,) = (text for text in caplog.messages if "cannot be written" in text)
    assert said.startswith(f"{run.tensorboard}: cannot be written (No space left on device); training goes on")
    assert "Traceback" not in capfd.readouterr().err  # the event files have a thread of their own


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("fused: not enough memory for its workspace"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_lower(
    tmp_path: Path, dataset: Dataset, error: Exception
) -> None:
    whole, _ = train(tmp_path / "whole", dataset, tta=False)
    config, plain, steps = CONFIG.model_copy(update={"tta": False}), learner.Learner.step, [0]
    run = create(tmp_path / "run", config)

    def step(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == 8:
            raise error
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        patch.setattr(learner.Learner, "step", step)
        with pytest.raises(OutOfMemoryError, match="out of memory at step 8; start again with a lower micro_batch"):
            Trainer(config, dataset, run, progress).fit()
    with Progress() as progress:
        Trainer(config, dataset, run, progress).fit(resume=True)

    assert [line.loss for line in run.metrics().steps] == [line.loss for line in whole.metrics().steps]


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.large), 2])
def test_only_deterministic_algorithms(tmp_path: Path, threads: int) -> None:
    """give the same figures twice, for any number of threads; and what has none is said."""
    words = ["train", "quick", *WORDS, "--deterministic", "--no-report", "--run"]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert main([*words, str(tmp_path / "first")]) == main([*words, str(tmp_path / "again")]) == 0
    finally:
        torch.set_num_threads(before)

    first, again = (RunDir.open(tmp_path / name) for name in ("first", "again"))
    assert first.environment.deterministic and not torch.are_deterministic_algorithms_enabled()
    assert [line.loss for line in first.metrics().steps] == [line.loss for line in again.metrics().steps]
    assert first.metrics().epochs[-1].test_loss == again.metrics().epochs[-1].test_loss


def test_what_has_no_deterministic_algorithm_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def without(*_: object) -> None:
        raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.Learner, "step", without)
        code = main(["train", "quick", *WORDS, "--deterministic", "--no-report", "--run", str(tmp_path / "run")])

    assert code == 2
    assert "dynconv: error: --deterministic: put_ does not have a deterministic" in capsys.readouterr().err


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
        assert summary.device.startswith("cuda") and summary.finished
        losses.append([line.loss for line in run.metrics().steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_loss_that_is_not_finite_in_the_first_epoch_leaves_the_initial_weights(
    tmp_path: Path, dataset: Dataset
) -> None:
    optim = OptimConfig(name="sgd", lr=1e30, weight_decay=0.0)
    run, summary = train(tmp_path / "bad", dataset, optim=optim, model=CONFIG.model.model_copy(update={"norm": "none"}))

    assert summary.stopped_by == "non-finite loss" and summary.epochs == 0
    assert all(torch.isfinite(tensor).all() for tensor in load_weights(run.weights).state.values())
    assert 0 <= summary.test_accuracy <= 1


def test_micro_batches_add_up_to_the_batch(tmp_path: Path, dataset: Dataset) -> None:
    """Without batch norm, which averages within a micro-batch, splitting a batch changes nothing but rounding."""
    model = CONFIG.model.model_copy(update={"norm": "none"})
    optim = OptimConfig(name="sgd", lr=0.1)
    losses = []
    for micro_batch in (100, 20):
        run, _ = train(
            tmp_path / str(micro_batch), dataset, micro_batch=micro_batch, model=model, optim=optim, epochs=1
        )
        losses.append([line.loss for line in run.metrics().steps])

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_average_of_the_weights_is_what_is_saved_and_evaluated(tmp_path: Path, dataset: Dataset) -> None:
    _, plain = train(tmp_path / "plain", dataset)
    run, averaged = train(tmp_path / "averaged", dataset, optim=OptimConfig(ema=0.9))
    losses = [[line.loss for line in RunDir.open(tmp_path / name).metrics().steps] for name in ("plain", "averaged")]

    assert losses[0] == losses[1], "averaging does not change the training itself"
    assert averaged.test_loss != plain.test_loss
    predictor, test = Predictor.load(run.path), dataset.test
    right = [predictor.logits(test.images, tta=tta).argmax(1) == test.labels for tta in (False, True)]
    assert [float(each.float().mean()) for each in right] == pytest.approx(
        [averaged.test_accuracy, averaged.test_accuracy_tta]
    )


def test_a_collapsed_router_warns(tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    def collapsed(config: ModelConfig, classes: int) -> Net:
        net = Net(config, classes)
        net.backbone[1].conv.router.linear.bias.data = torch.tensor([50.0, 0.0])
        return net

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Net", collapsed)
        run, _ = train(tmp_path, dataset, epochs=1)

    said = "block 2: the router has collapsed onto one expert; lower optim.router_lr"
    assert [text for text in warnings_of(run) if "collapsed" in text] == [said]
    assert said in caplog.messages


def test_the_last_epoch_is_always_at_the_last_size() -> None:
    """With fewer epochs than sizes, those of the end are kept: a network has to end at the size it is tested at."""
    for epochs in range(1, 8):
        config = TrainConfig(epochs=epochs, image_sizes=(24, 24, 24, 28, 32))
        sizes = [config.image_size(epoch) for epoch in range(epochs)]
        assert sizes[-1] == 32 and sizes == sorted(sizes)
    assert [TrainConfig(epochs=5).image_size(epoch) for epoch in range(5)] == [24, 24, 24, 28, 32]


def test_a_batch_larger_than_the_training_set_is_said(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = train(tmp_path, dataset, batch_size=1000, micro_batch=1000, epochs=1, tta=False)

    assert len(run.metrics().steps) == 1
    said = "a batch of 1,000 is larger than the 600 training images: one step an epoch; lower --batch-size, for "
    assert f"{said}example to 16" in caplog.messages


def test_an_accuracy_at_chance_is_said(tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    optim = OptimConfig(name="sgd", lr=1e-30, weight_decay=0.0)

    def constant(config: ModelConfig, classes: int) -> Net:
        net = Net(config, classes)
        torch.nn.init.zeros_(net.head.linear.weight)
        net.head.linear.bias.data[0] = 1
        return net

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Net", constant)
        _, summary = train(tmp_path, dataset, optim=optim, epochs=1, tta=False)

    assert summary.test_accuracy < 0.2
    (said,) = (text for text in caplog.messages if "no better than chance" in text)
    assert said.endswith("the network learned nothing; raise --epochs, or change --optim.lr (now 1e-30)")


def test_bf16_trains(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are those of fp32 to within the rounding of 8 bits, and not exactly; its weights stay fp32. The
    routing is recorded as it is in training."""
    losses, routed_in_bf16, plain = {}, [], learner.routing_statistics

    def noting(*arguments: Any) -> Any:
        routed_in_bf16.append(torch.is_autocast_enabled("cpu"))
        return plain(*arguments)

    monkeypatch.setattr(learner, "routing_statistics", noting)
    for precision in ("fp32", "bf16"):
        run, summary = train(tmp_path / precision, dataset, epochs=1, precision=precision, tta=False)
        losses[precision] = [line.loss for line in run.metrics().steps]
        assert summary.precision == precision

    assert losses["bf16"][0] != losses["fp32"][0] and losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)
    assert losses["bf16"][-1] < losses["bf16"][0]
    assert {tensor.dtype for tensor in load_weights(run.weights).state.values()} == {torch.float32, torch.int64}
    assert routed_in_bf16 == [False, True]


def test_a_hopeless_run_ends_after_the_epoch_that_was_judged(tmp_path: Path, dataset: Dataset) -> None:
    judged = []

    def hopeless(line: EpochLine) -> bool:
        judged.append(line.epoch)
        return line.epoch == 2

    for epochs in (2, 4):
        config = CONFIG.model_copy(update={"epochs": epochs})
        run = create(tmp_path / str(epochs), config)
        with Progress() as progress:
            summary = Trainer(config, dataset, run, progress, device="cpu").fit(hopeless=hopeless)
        assert summary.finished == (epochs == 2), "the last epoch is not judged: the run is done"

    assert judged == [1, 1, 2]
    assert (summary.stopped_by, summary.epochs) == ("pruned", 2) and load_weights(run.weights).state
    assert [line.epoch for line in run.metrics().epochs] == [1, 2] and run.state.exists()
