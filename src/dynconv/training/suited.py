"""A preset, made for CIFAR-10, fitted to other images: to their size, and to their number.

What a person has set stays as it is. The rest follows these rules, each of which says so in one line:

- Images of another size than 32 pixels: the sizes of training images, shifts and cutout grow in proportion, and blocks
  that halve the image are put before the first, so that it sees maps of 24 to 48 pixels, as it does in CIFAR-10.
- Large images: smaller micro-batches, so that the memory that they take stays about the same.
- Digits: no flips.
- Few images: smaller batches and more epochs, so that there are about as many steps as `quick` has on CIFAR-10.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from dynconv.data import NAMED, Dataset
from dynconv.data.augment import AugmentConfig
from dynconv.data.frame import SIZE
from dynconv.model.config import PER_BLOCK, ModelConfig
from dynconv.training.config import TrainConfig

_LARGEST_MAP = 48  # side of the first block's map, beyond which blocks are put before it
_NARROWEST = 16  # channels of these blocks
_POOLED = 2  # so many of them pool; before them, blocks have a stride, which costs a quarter
_MICRO_BATCH_PIXELS = 500 * 64 * 64
_SMALLEST_MICRO_BATCH = 25  # of which batch normalisation averages
_STEPS_PER_EPOCH, _STEPS = 10, 500  # at least
_BATCHES = (500, 250, 100, 50, 25)
_FEWEST = 8  # images of a batch, where there are fewer than the smallest of these
_MOST_EPOCHS = 50


@dataclass(frozen=True)
class Suited:
    """A configuration, and what was changed in it, one line for each reason."""

    config: TrainConfig
    changes: list[str]


def suited(config: TrainConfig, dataset: Dataset, chosen: Collection[str]) -> Suited:
    """`config` fitted to the images of `dataset`.

    Args:
        chosen: the dotted names of the fields that a person has set, such as "model.widths".
    """
    changes: list[str] = []
    size, images = dataset.frame.size, len(dataset.train.labels)
    config = config.model_copy(update={"data": config.data.model_copy(update={"size": size})})
    if images < _STEPS_PER_EPOCH * config.batch_size and "batch_size" not in chosen:
        config = _for_few(config, images, chosen, changes)
    if size != SIZE:
        config = _for_size(config, size, chosen, changes)
    augment = augment_for(dataset.name, config.augment, size, chosen)
    if augment.flip != config.augment.flip:
        changes.append(f"for {NAMED[dataset.name].title}: no flips, for a mirrored digit is none")
    return Suited(config.model_copy(update={"augment": augment}), changes)


def _for_size(config: TrainConfig, size: int, chosen: Collection[str], changes: list[str]) -> TrainConfig:
    update: dict[str, object] = {}
    if "image_sizes" not in chosen:
        update["image_sizes"] = tuple(_scaled(side, size, step=4) for side in config.image_sizes)
    extra = max(0, math.ceil(math.log2(size / _LARGEST_MAP)))
    grows = extra > 0 and not config.init and not _has_own_shape(config.model, chosen)
    if grows:
        update["model"] = grown(config.model, extra)
    fitting = _MICRO_BATCH_PIXELS // size**2
    if not {"micro_batch", "batch_size"} & set(chosen) and config.images_per_pass > fitting:
        divisors = [n for n in range(_SMALLEST_MICRO_BATCH, config.batch_size + 1) if config.batch_size % n == 0]
        update["micro_batch"] = max([n for n in divisors if n <= fitting] or divisors[:1] or [config.images_per_pass])
    config = config.model_copy(update=update)
    sizes = dict.fromkeys(config.image_sizes[-config.epochs :])  # with fewer epochs than sizes, the last ones
    said = [f"trained at {', '.join(map(str, sizes))} pixels"]
    if grows:
        blocks = "block" if extra == 1 else "blocks"
        said.append(
            f"{extra} more {blocks} of {', '.join(map(str, config.model.widths[:extra]))} channels at the start"
        )
    if "micro_batch" in update:
        said.append(f"{config.micro_batch} at a time")
    changes.append(f"for images of {size}x{size} pixels: {'; '.join(said)}")
    return config


def augment_for(data_name: str, augment: AugmentConfig, size: int, chosen: Collection[str]) -> AugmentConfig:
    """Shifts and cutout, in pixels of an image of 32, for images of `size` pixels; no flips where classes forbid them.

    Args:
        data_name: name of the data set.
        chosen: as for `suited`.
    """
    names = [name for name in ("translate", "cutout") if f"augment.{name}" not in chosen]
    update: dict[str, object] = {name: _scaled(getattr(augment, name), size) for name in names}
    if data_name in NAMED and not NAMED[data_name].mirrored and "augment.flip" not in chosen:
        update["flip"] = "none"
    return augment.model_copy(update=update)


def _for_few(config: TrainConfig, images: int, chosen: Collection[str], changes: list[str]) -> TrainConfig:
    sizes = [size for size in _BATCHES if size <= config.batch_size and _divides(config.micro_batch, size, chosen)]
    enough = [size for size in sizes if images >= _STEPS_PER_EPOCH * size]
    batch = next(iter(enough or sizes[-1:]), config.batch_size)
    if images < batch and "micro_batch" not in chosen:
        batch = min(images, _FEWEST)
    update: dict[str, object] = {"batch_size": batch}
    if "micro_batch" not in chosen:
        update["micro_batch"] = min(batch, config.images_per_pass)
    if "epochs" not in chosen:
        steps = max(1, images // batch)
        update["epochs"] = max(config.epochs, min(math.ceil(_STEPS / steps), _MOST_EPOCHS))
    config = config.model_copy(update=update)
    changes.append(f"for {images:,} training images: batches of {config.batch_size}, {_epochs(config.epochs)}")
    return config


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count > 1 else ''}"


def _divides(micro_batch: int | str, batch: int, chosen: Collection[str]) -> bool:
    """Whether a batch may have this size: one that a person has set the size of the parts of stays a multiple of it."""
    return "micro_batch" not in chosen or not isinstance(micro_batch, int) or batch % min(micro_batch, batch) == 0


def _has_own_shape(model: ModelConfig, chosen: Collection[str]) -> bool:
    """Whether a person has said what the blocks are, one by one."""
    by_block = [name for name in PER_BLOCK if f"model.{name}" in chosen and len(getattr(model, name)) > 1]
    return "model.widths" in chosen or bool(by_block)


def grown(model: ModelConfig, blocks: int) -> ModelConfig:
    """The network with `blocks` more at its start, each of which halves the side of the image."""
    width = max(_NARROWEST, model.widths[0] // 2)
    more = {name: [model.per_block(name)[0]] * blocks for name in PER_BLOCK}
    strided = max(0, blocks - _POOLED)
    more["strides"] = [2] * strided + [1] * (blocks - strided)
    more["pools"] = [1] * strided + [2] * (blocks - strided)
    more["residual"], more["groups"] = [False] * blocks, [1] * blocks
    fields: dict[str, object] = {"widths": (width,) * blocks + model.widths}
    for name in PER_BLOCK:
        whole = (*more[name], *model.per_block(name))
        one_for_all = len(set(whole)) == 1 or (name == "residual" and len(model.residual) == 1)
        fields[name] = getattr(model, name)[:1] if one_for_all else whole
    return ModelConfig.model_validate(model.model_dump() | fields)


def _scaled(length: int, size: int, step: int = 1) -> int:
    """A length in pixels of an image of 32, in an image of `size`."""
    return round(length * size / SIZE / step) * step
