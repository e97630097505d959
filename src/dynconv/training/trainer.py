"""The one training loop: a configuration and a data set in, a filled run directory out. Reads downward.

Everything random is drawn from generators seeded by (seed, epoch), and the state is saved after each epoch, so a
resumed run sees the same batches, and drops the same channels, as one that was never interrupted.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state, save_state
from dynconv.artifacts.weights import save_weights
from dynconv.config import RunConfig
from dynconv.data.batches import to_float, training_batches
from dynconv.data.dataset import Dataset, Split
from dynconv.errors import DynconvError
from dynconv.model.cost import total_multiply_adds
from dynconv.model.net import Net, build_net
from dynconv.model.tta import EVAL_BATCH, batched_logits
from dynconv.training.device import keep_freed_memory, launch, place
from dynconv.training.events import EventLog
from dynconv.training.optim import build_optimizers, lr_factor, set_learning_rates
from dynconv.training.progress import Progress

COLLAPSED = 0.02
"""A router whose mean routing weights have less than this entropy (1 = uniform) uses one expert for every image."""

IDLE = 0.002
"""Routing weights whose standard deviation over images is below this are in effect the same for every image."""

ROUTING_IMAGES = 500
"""Test images over which the routing of an epoch is recorded."""

NON_FINITE = "non-finite loss"


def fit(config: RunConfig, dataset: Dataset, run: RunDir, progress: Progress, resume: bool = False) -> dict[str, Any]:
    """Trains `config` on `dataset`, writes everything into `run`, returns its summary (see rundir).

    Ctrl-C ends the run after the current step, with the weights as they are. So does a loss or a weight that is not
    finite, with the weights of the last whole epoch. Either is named in the summary's `stopped_by`.
    """
    began = time.perf_counter()
    keep_freed_memory()
    fabric, precision = launch(config)
    torch.manual_seed(config.seed)
    train, test = place(dataset.train, fabric.device), place(dataset.test, fabric.device)
    held_out = place(dataset.validation, fabric.device) if dataset.validation else None
    if train.images.device.type != fabric.device.type:
        progress.message(f"the images stay in main memory: {fabric.device} has too little for them")

    net = build_net(config.model, len(dataset.classes))
    # Images at random: class folders are read class by class.
    sample = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(config.seed))[:10_000]
    net.input.fit(to_float(dataset.train.images[sample]))
    net = net.to(fabric.device)
    optimizers = build_optimizers(net, config.optim)
    average = None
    if config.optim.ema:
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(config.optim.ema), use_buffers=True)
    model, *fabric_optimizers = fabric.setup(torch.compile(net) if config.compile else net, *optimizers)
    evaluated = cast("Net", average.module) if average else net

    batch_size = min(config.batch_size, len(train.labels))
    steps_per_epoch = len(train.labels) // batch_size
    steps = config.epochs * steps_per_epoch
    micro_batch = min(config.micro_batch, batch_size)
    start_epoch, seconds = 0, 0.0
    if resume:
        start_epoch, seconds = _restore(run, net, optimizers, average)
        run.rewind(start_epoch * steps_per_epoch)
    else:  # so that there is something to go back to in the first epoch too
        _save(run, net, optimizers, average, 0, 0.0)
    step, epochs_done, stopped_by = start_epoch * steps_per_epoch, start_epoch, None
    last: dict[str, Any] = run.metrics()[-1] if resume and run.metrics() else {}
    logits = None  # of the test images, by the weights as they are now
    events = EventLog(run.tensorboard)

    def record(entry: dict[str, Any]) -> None:
        entry = {**entry, "data": dataset.name}
        run.append(entry)
        events.record(entry)

    progress.start(steps, config.epochs, step)
    with _interruptible() as interrupted:
        for epoch in range(start_epoch, config.epochs):
            net.train()
            torch.manual_seed(config.seed * 100_003 + epoch)  # for dropout, which takes no generator
            image_size = config.image_size(epoch)
            totals = torch.zeros(3, dtype=torch.float64)  # loss, correct, images
            epoch_began = time.perf_counter()
            batches = training_batches(
                train, len(dataset.classes), config.augment, batch_size, image_size, epoch, config.seed
            )
            for images, target in batches:
                step_began = time.perf_counter()
                rates = set_learning_rates(optimizers, lr_factor(step, steps, config.optim))
                sums = torch.zeros(2, device=fabric.device)
                images, target = images.to(fabric.device), target.to(fabric.device)
                for x, y in zip(images.split(micro_batch), target.split(micro_batch), strict=True):
                    logits = model(x)
                    loss = F.cross_entropy(logits, y, label_smoothing=config.optim.label_smoothing)
                    fabric.backward(loss * (len(x) / batch_size))
                    sums += torch.stack((loss.detach() * len(x), _correct(logits.detach(), y)))
                loss_sum, correct = sums.tolist()
                if not math.isfinite(loss_sum):
                    stopped_by, broken = NON_FINITE, (step + 1, "the loss is not finite at")
                    break
                for optimizer in fabric_optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                if average:
                    average.update_parameters(net)
                step += 1
                totals += torch.tensor((loss_sum, correct, batch_size), dtype=torch.float64)
                speed = batch_size / (time.perf_counter() - step_began)
                record({
                    "kind": "step", "step": step, "epoch": step / steps_per_epoch, "loss": loss_sum / batch_size,
                    "lr": rates, "image_size": image_size, "images_per_second": speed,
                    "seconds": seconds + time.perf_counter() - epoch_began,
                })  # fmt: skip
                progress.step(step, loss_sum / batch_size, float(totals[1] / totals[2]), speed)
                if interrupted():
                    stopped_by = "interrupt"
                    break
            seconds += time.perf_counter() - epoch_began
            if stopped_by != NON_FINITE:
                logits = _logits(evaluated, test, fabric)
                figures = _metrics("test", logits, test)
                if held_out:
                    figures |= _metrics("validation", _logits(evaluated, held_out, fabric), held_out)
                if not (all(map(math.isfinite, figures.values())) and _finite(net) and _finite(evaluated)):
                    stopped_by, broken = NON_FINITE, (step, "the weights are not finite after")
            if stopped_by == NON_FINITE:
                text = f"{broken[1]} step {broken[0]} (epoch {epoch + 1})"
                progress.warn(f"{text}: stopped; the weights are those after epoch {epochs_done}")
                record({"kind": "warning", "step": broken[0], "text": text})
                _restore(run, net, optimizers, average)
                logits = None
                break
            epochs_done += stopped_by is None
            mean = totals / totals[2].clamp_min(1)
            with fabric.autocast():  # the routing that training sees, computed by the operators that it uses
                routing = routing_statistics(evaluated, test.images[:ROUTING_IMAGES].to(fabric.device))
            last = {
                "kind": "epoch", "epoch": epoch + 1, "step": step, "train_loss": float(mean[0]),
                "train_accuracy": float(mean[1]), **figures, "lr": rates, "image_size": image_size, "seconds": seconds,
                "images_per_second": float(totals[2]) / (time.perf_counter() - epoch_began),
                "routing": routing,
            }  # fmt: skip
            record(last)
            progress.epoch(last)
            for text in _useless_routing(last["routing"], trained=epochs_done == config.epochs):
                progress.warn(text)
                record({"kind": "warning", "step": step, "text": text})
            if stopped_by:
                break
            _save(run, net, optimizers, average, epochs_done, seconds)

    weights = {name: tensor.cpu() for name, tensor in evaluated.state_dict().items()}
    save_weights(run.weights, weights, config, dataset.classes, dataset.name)
    logits = _logits(evaluated, test, fabric) if logits is None else logits
    logits_tta = _logits(evaluated, test, fabric, tta=True) if config.tta else None
    probabilities = (logits if logits_tta is None else logits_tta).softmax(1).cpu()
    run.write_predictions(dataset.name, test.labels.cpu(), probabilities, dataset.classes)
    summary = {
        "preset": config.preset, "data": dataset.name, "seed": config.seed, "epochs": epochs_done,
        "epochs_planned": config.epochs, "finished": stopped_by is None, "stopped_by": stopped_by,
        "test_accuracy": _accuracy(logits, test.labels),
        "test_accuracy_tta": None if logits_tta is None else _accuracy(logits_tta, test.labels),
        "test_loss": float(F.cross_entropy(logits, test.labels)), "train_accuracy": last.get("train_accuracy"),
        "validation_accuracy": last.get("validation_accuracy"), "train_seconds": seconds,
        "total_seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "multiply_adds": total_multiply_adds(net, test.images.shape[-1]), "device": str(fabric.device),
        "precision": precision, "peak_memory_bytes": _peak_memory(),
    }  # fmt: skip
    run.write_summary(summary)
    events.close()
    return summary


@torch.no_grad()
def routing_statistics(net: Net, images_NCHW: Tensor) -> list[dict[str, Any]]:
    """Per block, over uint8 images [N,3,H,W]: mean routing weight of each expert, the entropy of those means (of their
    shares; 1 = uniform, 0 = one expert), and the standard deviation of the weights over images."""
    net.eval()  # `fit` sets training mode anew in every epoch
    statistics = []
    for number, a_NK in enumerate(net.routing_weights(to_float(images_NCHW)), 1):
        share_K = a_NK.mean(0) / a_NK.mean(0).sum().clamp_min(1e-12)
        entropy = torch.special.entr(share_K).sum() / math.log(len(share_K)) if len(share_K) > 1 else torch.ones(())
        spread = a_NK.std(0, correction=0).mean()
        statistics.append(
            {"block": number, "mean": a_NK.mean(0).tolist(), "entropy": float(entropy), "std": float(spread)}
        )
    return statistics


def _useless_routing(routing: list[dict[str, Any]], trained: bool) -> list[str]:
    """A line for each block of several experts that is used as one. Before it is `trained`, routing may yet begin."""
    found = []
    for block in routing:
        name = f"block {block['block']}"
        if len(block["mean"]) > 1 and block["entropy"] < COLLAPSED:
            found.append(f"{name}: the router has collapsed onto one expert; lower optim.router_lr")
        elif len(block["mean"]) > 1 and trained and block["std"] < IDLE:
            found.append(
                f"{name}: the routing weights are the same for every image (standard deviation {block['std']:.4f}), so "
                "its experts act as one; raise optim.router_lr, or train for longer"
            )
    return found


def _logits(net: Net, split: Split, fabric: Any, tta: bool = False) -> Tensor:
    """On the device of the split, wherever the network is."""
    with fabric.autocast():
        parts = [
            batched_logits(net, images.to(fabric.device), tta=tta).to(images.device)
            for images in split.images.split(EVAL_BATCH)
        ]
    return torch.cat(parts)


def _finite(net: Net) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


def _metrics(name: str, logits: Tensor, split: Split) -> dict[str, float]:
    loss = float(F.cross_entropy(logits, split.labels))
    return {f"{name}_loss": loss, f"{name}_accuracy": _accuracy(logits, split.labels)}


def _accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float(_correct(logits_NK, labels_N)) / len(labels_N)


def _correct(logits_NK: Tensor, target: Tensor) -> Tensor:
    labels = target if target.dim() == 1 else target.argmax(1)
    return (logits_NK.argmax(1) == labels).sum().float()


def _save(
    run: RunDir, net: Net, optimizers: list[Any], average: AveragedModel | None, epochs: int, seconds: float
) -> None:
    state = {
        "epochs": epochs,
        "seconds": seconds,
        "net": net.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.state_dict() if average else None,
    }
    save_state(run.state, state)


def _restore(run: RunDir, net: Net, optimizers: list[Any], average: AveragedModel | None) -> tuple[int, float]:
    """Loads what `_save` saved; whole epochs done and seconds spent."""
    state = load_state(run.state)
    try:
        net.load_state_dict(state["net"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if average:
            average.load_state_dict(state["average"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DynconvError(
            f"{run.state}: does not fit this run's configuration ({str(error).splitlines()[0]})"
        ) from error
    return int(state["epochs"]), float(state["seconds"])


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Turns the first Ctrl-C into a flag that is looked at between steps; a second one interrupts at once."""
    caught: list[int] = []
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, previous)


def _peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None on Windows, which has no getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
