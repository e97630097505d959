"""Named recipes. Each docstring states command, machine, time and accuracy, mean +- sd (n)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynconv.data.augment import AugmentConfig
from dynconv.data.frame import SIZE
from dynconv.model.config import ModelConfig
from dynconv.training.config import OptimConfig, TrainConfig
from dynconv.validation import flat, validate


def basic() -> TrainConfig:
    """The literal specification, nothing else: K convolutions, ReLU, pooling, softmax regression, SGD. The baseline.

    `dynconv train basic` on 2 cores of an AMD EPYC with AVX512-BF16: 264 s in all, test accuracy 80.68 +- 0.78 %
    (n = 3).
    """
    return TrainConfig(
        preset="basic",
        epochs=12,
        batch_size=125,
        micro_batch=125,
        image_sizes=(32,),
        tta=False,
        augment=AugmentConfig(flip="alternating", translate=2),
        model=ModelConfig(
            gate=("plain_sigmoid",),  # K = 4 experts of 1/2 keep the scale; those of 1/4 halve it
            whiten=False,
            widths=(32, 64, 128),
            pools=(2,),
            experts=(4,),
            identity_init=False,
            norm="none",
            nonlinearity="relu",
        ),
        optim=OptimConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, schedule="cosine", label_smoothing=0.0),
    )


def quick() -> TrainConfig:
    """90 % within minutes.

    `dynconv train quick` on 2 cores of an Intel Xeon with AMX, bf16: 107 s in all, test accuracy 90.43 +-
    0.20 % (n = 5) with test-time augmentation, 89.40 +- 0.12 % without.
    """
    return TrainConfig()


def small() -> TrainConfig:
    """The most accurate within 10 million multiply-adds per image: for phones and browsers.

    `dynconv train small` on an AMD EPYC with AVX512-BF16: test accuracy 89.78 +- 0.09 % (n = 5) with test-time
    augmentation, 88.40 +- 0.22 % without; 1.1 points more than the best of three static networks of
    as many multiply-adds.
    """
    return TrainConfig(
        preset="small",
        epochs=12,
        image_sizes=(24, 24, 28, 32),
        model=ModelConfig(
            widths=(24, 24, 48, 56, 96, 128),
            kernel_sizes=(1, 3, 3, 3, 3, 3),
            experts=(4,),
        ),
        optim=OptimConfig(lr=0.12, router_lr=5e-3),
    )


def standard() -> TrainConfig:
    """The accurate one for a machine without a GPU.

    `dynconv train standard` on 2 cores of an Intel Xeon with AMX, bf16: 556 s in all, test accuracy 94.17 +-
    0.11 % (n = 3) with test-time augmentation, 93.54 +- 0.03 % without.
    """
    return TrainConfig(
        preset="standard",
        epochs=11,
        image_sizes=(28,) * 4 + (32,) * 7,
        model=ModelConfig(widths=(64, 64, 256, 256, 256, 256)),
    )


def accurate() -> TrainConfig:
    """A third block with a residual in two groups, more augmentation, 36 epochs.

    `dynconv train accurate` on an Intel Xeon with AMX, bf16: test accuracy 95.12 % (n = 1) with test-time augmentation,
    94.31 % without. It took about 70 minutes on 2 cores, in pieces and beside other work.
    """
    return TrainConfig(
        preset="accurate",
        epochs=36,
        image_sizes=(20, 24, 24, 28, 28, 32),
        augment=AugmentConfig(translate=3, cutout=8),
        model=ModelConfig(
            widths=(64, 64, 256, 256, 256, 320, 320, 320),
            pools=(2, 1, 2, 1, 1, 2, 1, 1),
            residual=(False, False, False, False, True, False, False, True),
            experts=(4, 4, 4, 2, 2, 2, 2, 2),
        ),
        optim=OptimConfig(lr=0.1, router_lr=5e-3),
    )


def best() -> TrainConfig:
    """`accurate` made wide, with still more augmentation: hours without a GPU.

    `dynconv train best` on an Intel Xeon with AMX, bf16: test accuracy 95.35 % (n = 1) with test-time augmentation,
    94.85 % without. It took about four hours, mostly on one core and beside other work: 2.62 PFLOP, 2.1 times
    those of `accurate`.
    """
    return TrainConfig(
        preset="best",
        epochs=30,
        image_sizes=(20, 24, 24, 28, 28, 32),
        augment=AugmentConfig(translate=4, cutout=12),
        model=ModelConfig(
            widths=(128, 128, 384, 384, 384, 512, 512, 512),
            pools=(2, 1, 2, 1, 1, 2, 1, 1),
            residual=(False, False, False, False, True, False, False, True),
            experts=(2,),
        ),
        optim=OptimConfig(lr=0.1, router_lr=5e-3),
    )


def best_gpu() -> TrainConfig:
    """`best` made wider and trained five times as long, with the augmentation that long trainings need: for a GPU.

    `dynconv train best-gpu`: Not yet measured. It was designed for 97.5 % and ten minutes of an H100: 26 PFLOP, which
    are ten minutes at 43 TFLOP/s.
    """
    return TrainConfig(
        preset="best-gpu",
        epochs=150,
        image_sizes=(24, 28, 32),
        augment=AugmentConfig(translate=4, policy="trivialaugment", erase=0.25),
        model=ModelConfig(
            widths=(128, 128, 512, 512, 512, 768, 768, 768),
            pools=(2, 1, 2, 1, 1, 2, 1, 1),
            residual=(False, False, False, False, True, False, False, True),
            experts=(2,),
        ),
        optim=OptimConfig(lr=0.1, router_lr=5e-3),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "basic": basic, "quick": quick, "small": small, "standard": standard, "accurate": accurate, "best": best,
    "best-gpu": best_gpu,
}  # fmt: skip


def by_field() -> dict[str, dict[str, Any]]:
    """The hyper-parameters of each preset by dotted names, as its runs on CIFAR-10 record them."""
    found = {name: flat(make().model_dump(mode="json")) | {"data.size": SIZE} for name, make in PRESETS.items()}
    return found | {"custom": flat(TrainConfig().model_dump(mode="json"))}


def override(base: TrainConfig, fields: Mapping[str, Any], where: str = "") -> TrainConfig:
    """`base` with some fields replaced, level by level: {"model": {"experts": 4}}.

    Raises:
        DynconvError: a field that does not exist or has a wrong value; the message begins with `where`.
    """
    return validate(TrainConfig, merge(base.model_dump(), fields), where)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, level by level."""
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        merged[name] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
