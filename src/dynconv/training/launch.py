"""A training run from its first word to its summary: the data found, the directory made or opened, the trainer run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from dynconv import data
from dynconv.artifacts.environment import environment
from dynconv.artifacts.found_weights import is_packaged
from dynconv.artifacts.lock import locked
from dynconv.artifacts.records import Summary
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import is_saved
from dynconv.artifacts.weights import Weights
from dynconv.data import Dataset
from dynconv.data.augment import require_shift_within
from dynconv.data.checksum import checksums
from dynconv.data.frame import SIZE
from dynconv.errors import DynconvError
from dynconv.machine import pick_device
from dynconv.model.describe import headline, rows
from dynconv.model.net import InputTransform, Net
from dynconv.training.config import TrainConfig
from dynconv.training.distributed import ALONE, Group
from dynconv.training.initial import freeze, initial_weights, take_over
from dynconv.training.logs import LogName, require_logs
from dynconv.training.memory import fitting_micro_batch, require_memory
from dynconv.training.process import only_deterministic_algorithms
from dynconv.training.progress import Progress
from dynconv.training.signals import NoticeError, heard_signals
from dynconv.training.stopping import require_held_out, require_held_out_before_download
from dynconv.training.suited import suited
from dynconv.training.timing import epochs_within
from dynconv.training.trainer import Hopeless, Trainer, statistics_sample
from dynconv.validation import Frozen, validate

logger = logging.getLogger(__name__)


class Launch(Frozen):
    """Where a run gets its images, and where and on what it runs. Its results do not depend on it, beyond rounding."""

    data: str = "cifar10"
    """cifar10 or another named data set (found or downloaded, else an error), shapes (generated), auto (any that is
    found, or CIFAR-10 by download, else shapes), or a path."""
    run: Path | None = None
    """Directory to write; new, or empty. Default: runs/<time>-<preset>-<data>-seed<seed>."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    compile: bool = False
    """Compile the network with torch.compile."""
    deterministic: bool = False
    """Compute by algorithms that give the same bits each time, which may be slower on a GPU. On a CPU it keeps `auto`
    from measuring which algorithm is fastest; all else gives the same bits anyway, for one number of threads."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Minutes after which the state is saved within an epoch; it also is at the end of each."""
    log: tuple[LogName, ...] = ()
    """Where metrics go besides TensorBoard's event files: wandb (Weights & Biases), mlflow, or both."""


@dataclass(frozen=True)
class Outcome:
    """A run that has ended, with its data set in memory."""

    run: RunDir
    dataset: Dataset
    summary: Summary


def start(
    config: TrainConfig, launch: Launch, progress: Progress,
    *, dataset: Dataset | None = None, hopeless: Hopeless | None = None, group: Group = ALONE, seconds: float = 0.0,
    chosen: Collection[str] | None = None,
) -> Outcome:  # fmt: skip
    """A new run.

    Args:
        chosen: dotted names of the fields that a person has set; the others are fitted to the images, see `suited`.
            None keeps them all.
        seconds: if above 0, as many epochs as fit into them in place of the configuration's.
        dataset: what `load` returned, if it is already in memory.
        hopeless: may end the run early, see `Trainer.fit`.
        group: the processes that train it, each of which calls this.

    Raises:
        DynconvError: no such device or data, a network that cannot be or does not fit into memory, images that are all
            of one colour, too little time, or a directory that cannot be written.
        NoticeError: the system is about to end the process.
    """
    with _notices_heard():
        device = pick_device(launch.device)  # before there is a directory
        group.share(lambda: require_logs(launch.log))
        config = config.model_copy(update={"init": _from_any_folder(config.init)})
        initial = group.each(lambda: initial_weights(config))
        if dataset is None:
            group.each(lambda: require_held_out_before_download(config, launch.data))
        dataset = dataset or group.first_on_each_machine(lambda: load(config, launch.data))
        config = group.each(partial(fitted, config, dataset, chosen))
        group.each(lambda: require_trainable(config, dataset, device, group))
        group.each(lambda: require_taken(config, dataset, initial))
        config = group.share(partial(fitting_micro_batch, config, dataset, device, group.size))
        if seconds:
            config = group.share(partial(_within, config, launch, dataset, seconds, group))
        if initial:
            logger.info("starting from %s, trained on %s", config.init, initial.data_name)
        about = environment(
            dataset.name,
            data_source=_source(launch.data, dataset),
            data_checksums=checksums(dataset),
            device=launch.device,
            compile=launch.compile,
            deterministic=launch.deterministic,
            log=list(launch.log),
        )
        run = group.share(lambda: RunDir.create(launch.run, config.model_dump(mode="json"), about))
    with _held(run, group):
        return _train(config, launch, dataset, run, progress, hopeless, group, initial)


def resume(
    path: Path, launch: Launch, progress: Progress,
    *, dataset: Dataset | None = None, hopeless: Hopeless | None = None, group: Group = ALONE,
) -> Outcome:  # fmt: skip
    """Continues an interrupted run, with its own hyper-parameters. The other arguments are those of `start`.

    Raises:
        DynconvError: no such run, one that has finished or is being trained, or anything that `start` raises.
    """
    run = group.share(lambda: RunDir.reopen(path))
    config = config_of(run)
    device = pick_device(launch.device)
    group.share(lambda: require_logs(launch.log))
    with _held(run, group):
        with _notices_heard():
            dataset = dataset or group.first_on_each_machine(lambda: load(config, launch.data))
            group.share(lambda: _require_same_data(run, dataset))
            config = group.each(partial(fitted, config, dataset, None))
            group.each(lambda: require_trainable(config, dataset, device, group))
            # What stopped it before its first state was saved also lost the weights that it was to start from.
            initial = group.each(lambda: None if is_saved(run.state) else initial_weights(config))
        return _train(config, launch, dataset, run, progress, hopeless, group, initial, resume=True)


def _require_same_data(run: RunDir, dataset: Dataset) -> None:
    """Raises DataError where these are not the classes and images that the run began with; warns of other pixels."""
    before, now = run.environment.data_checksums, checksums(dataset)
    if before.get("labels", now["labels"]) != now["labels"]:
        raise data.DataError(
            f"{dataset.origin}: not the data that this run began with: it had other classes, or images were added or "
            "removed; bring them back, name the right data with --data, or start a new run"
        )
    if before.get("pixels", now["pixels"]) != now["pixels"]:
        logger.warning(
            "%s: some images have changed since this run began, or another version of Pillow reads them", dataset.origin
        )


def config_of(run: RunDir) -> TrainConfig:
    """The hyper-parameters of a run. Raises DynconvError where they are of another version."""
    before_frames = {"data": {"size": SIZE, "fit": "crop"}}  # of runs of earlier versions, which name none
    return validate(TrainConfig, before_frames | run.config.tree(), f"{run.path / 'config.yaml'}: ")


def load(config: TrainConfig, source: str) -> Dataset:
    """The data set that a run trains on, its hold-out taken out of the training images.

    Raises:
        DynconvError: no such data, or too few of them.
    """
    dataset = data.load(source, seed=config.seed, wanted=config.data)
    return data.hold_out(dataset, config.holdout, config.seed) if config.holdout else dataset


def fitted(config: TrainConfig, dataset: Dataset, chosen: Collection[str] | None) -> TrainConfig:
    """The configuration fitted to its images, see `suited`; with no `chosen`, the size of the images alone. Says so.

    Raises:
        DynconvError: a network that cannot be.
    """
    if chosen is None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"size": dataset.frame.size})})
    else:
        found = suited(config, dataset, chosen)
        config = found.config
        for change in found.changes:
            logger.info("%s", change)
    logger.info("network: %s", headline(config.model, len(dataset.classes), dataset.frame.size, config.image_sizes))
    return config


def require_trainable(config: TrainConfig, dataset: Dataset, device: torch.device, group: Group = ALONE) -> None:
    """Raises DynconvError where the network does not fit into memory, all images are of one colour, there are more
    processes than images of a micro-batch, nothing is held out that a hold-out is to decide, shifts go beyond an
    image's side, or fp16 is asked of something other than a GPU.
    """
    if config.precision == "fp16" and device.type != "cuda":
        raise DynconvError(f"precision: fp16 is for NVIDIA GPUs, and this trains on {device.type}; use auto")
    require_shift_within(config.augment, dataset.frame.size)
    require_held_out(config, dataset)
    at_once = config.batch_size if config.micro_batch == "auto" else config.micro_batch
    micro_batch = min(at_once, config.batch_size, len(dataset.train.labels))
    if micro_batch < group.size:
        raise DynconvError(f"{group.size} processes cannot share a micro_batch of {micro_batch} images; start fewer")
    batch = min(config.batch_size, len(dataset.train.labels))
    if group.size > 1 and batch % micro_batch:
        raise DynconvError(
            f"micro_batch: {micro_batch} does not divide the batch of {batch} images that {group.size} processes share"
        )
    largest = rows(config.model, len(dataset.classes), max(config.image_sizes))
    require_memory(config, largest, len(dataset.train.labels), device)
    try:
        InputTransform(whiten=False, grey=config.model.grey).fit(statistics_sample(config, dataset))
    except ValueError as error:
        raise data.DataError(f"{dataset.origin}: training {error}") from error


def require_taken(config: TrainConfig, dataset: Dataset, initial: Weights | None) -> None:
    """Raises DynconvError where nothing of the initial weights fits the network, or nothing of it is left to learn."""
    if initial is None and not config.freeze:
        return
    with torch.random.fork_rng(devices=[]):
        net = Net(config.model, len(dataset.classes))
        if initial:
            take_over(net, dataset.classes, initial)
        freeze(net, config.freeze)


def _within(config: TrainConfig, launch: Launch, dataset: Dataset, seconds: float, group: Group) -> TrainConfig:
    """The configuration with as many epochs as fit into the time."""
    if group.size > 1:
        raise DynconvError("--time measures one process, and several share this training; give --epochs instead")
    epochs, whole = epochs_within(config, dataset, seconds, device=launch.device, compile=launch.compile)
    logger.info("time: %d epochs, about %d s of %d", epochs, whole, seconds)
    return config.model_copy(update={"epochs": epochs})


def _from_any_folder(init: str) -> str:
    """The weights to start from, named so that a process in another folder finds them."""
    return init if not init or is_packaged(init) else str(Path(init).expanduser().resolve())


def _source(source: str, dataset: Dataset) -> str:
    """What finds the same data set again, from any folder."""
    if source == "auto":
        return dataset.name if dataset.name in data.NAMED else dataset.origin
    return source if source in data.NAMED else str(Path(source).expanduser().resolve())


@contextlib.contextmanager
def _notices_heard() -> Iterator[None]:
    """Ends what is done before the first step when a scheduler's notice comes. Raises NoticeError."""
    with heard_signals() as signals, signals.at_once(interrupt=True):
        try:
            yield
        except NoticeError as notice:
            raise NoticeError(f"{notice} before the first step of this process; nothing is lost") from None


@contextlib.contextmanager
def _held(run: RunDir, group: Group) -> Iterator[None]:
    """Holds the lock of a run. Raises DynconvError if another process does."""
    with contextlib.ExitStack() as stack:
        group.share(lambda: stack.enter_context(locked(run.path)))
        yield


def _train(
    config: TrainConfig, launch: Launch, dataset: Dataset, run: RunDir, progress: Progress, hopeless: Hopeless | None,
    group: Group, initial: Weights | None, *, resume: bool = False,
) -> Outcome:  # fmt: skip
    logger.info("run: %s", run.path)
    with only_deterministic_algorithms() if launch.deterministic else contextlib.nullcontext():
        trainer = Trainer(
            config, dataset, run, progress,
            device=launch.device, compile=launch.compile, checkpoint_minutes=launch.checkpoint_minutes, group=group,
            initial=initial, log=launch.log,
        )  # fmt: skip
        return Outcome(run, dataset, trainer.fit(resume, hopeless))
