"""Named configurations. Each docstring states command, machine, time and accuracy, mean +- sd (n)."""

from __future__ import annotations

from collections.abc import Callable

from dynconv.config import AugmentConfig, ModelConfig, OptimConfig, RunConfig


def basic() -> RunConfig:
    """The literal specification, nothing else: K convolutions, ReLU, pooling, softmax regression, SGD. The baseline.

    `dynconv train basic` on 2 cores of an AMD EPYC with AVX2, float32: 539 s in all, test accuracy 76.01 % (n = 1).
    """
    return RunConfig(
        preset="basic",
        epochs=10,
        batch_size=125,
        micro_batch=125,
        tta=False,
        augment=AugmentConfig(flip="none", translate=0),
        model=ModelConfig(
            whiten=False,
            widths=(32, 64, 128),
            pools=(2,),
            experts=4,
            identity_init=False,
            norm="none",
            nonlinearity="relu",
        ),
        optim=OptimConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, schedule="cosine", label_smoothing=0.0),
    )


def quick() -> RunConfig:
    """90 % within minutes.

    `dynconv train quick` on 2 cores of an AMD EPYC with AVX512-BF16, bf16: 210 s in all, test accuracy 90.47 +-
    0.22 % (n = 5) with test-time augmentation, 89.49 +- 0.20 % without.
    """
    return RunConfig(
        preset="quick",
        epochs=5,
        batch_size=500,
        micro_batch=500,
        image_sizes=(24, 24, 24, 28, 32),
        model=ModelConfig(widths=(32, 32, 128, 128, 128, 128), experts=2),
        optim=OptimConfig(lr=0.17, bias_lr=53.0, classifier_lr=0.035),
    )


def standard() -> RunConfig:
    """The accurate one for a machine without a GPU.

    `dynconv train standard` on 2 cores of an AMD EPYC with AVX512-BF16, bf16: 1395 s in all (seed 0), test accuracy
    94.26 +- 0.11 % (n = 3) with test-time augmentation, 93.47 +- 0.28 % without.
    """
    return RunConfig(
        preset="standard",
        epochs=11,
        batch_size=500,
        micro_batch=500,
        image_sizes=(28,) * 4 + (32,) * 7,
        model=ModelConfig(widths=(64, 64, 256, 256, 256, 256), experts=2),
        optim=OptimConfig(lr=0.17, bias_lr=53.0, classifier_lr=0.035),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {"basic": basic, "quick": quick, "standard": standard}
