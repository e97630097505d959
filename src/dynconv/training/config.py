"""Every hyper-parameter of a training run, typed, frozen and validated.

Where to write, on which device, from which folder: these are arguments of the launch (`dynconv.training.launch`). Two
runs with equal hyper-parameters and seeds are the same experiment.

The text under a field is its help on the command line; its bounds are what a wrong value is answered with.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dynconv.data.augment import AugmentConfig
from dynconv.data.frame import LARGEST_SIZE, DataConfig
from dynconv.machine import RequestedPrecision
from dynconv.model.config import ModelConfig
from dynconv.validation import Fraction, Frozen

FREEZABLE = ("experts", "routers", "biases", "head")
"""Parts of the network that can be frozen, besides whole blocks."""

MOST_IMAGES = 1_000_000_000
MOST_EPOCHS = 1_000_000

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Frozen):
    """How the weights are learned. The defaults are those of the preset `quick`."""

    name: str = "muon"
    """muon: orthogonalised momentum for the experts, each by itself, SGD-Nesterov for biases and head, Adam for
    routers. sgd (Nesterov), adamw: one optimizer and one learning rate for all."""
    lr: float = Field(0.17, gt=0)
    """Peak learning rate: of the experts with muon, of everything with sgd and adamw."""
    momentum: Decay = 0.6
    """Momentum of muon and of sgd; not used by adamw."""
    router_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the routers, with muon."""
    bias_lr: float = Field(53.0, gt=0)
    """Peak learning rate of the backbone's biases, with muon."""
    head_lr: float = Field(0.035, gt=0)
    """Peak learning rate of the head, with muon."""
    sgd_momentum: Decay = 0.85
    """Momentum of biases and head, with muon."""
    router_betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Adam's decays per step for the routers, with muon: of the mean gradient and of its square."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """The same for everything, with adamw."""
    backbone_rate: float = Field(1.0, gt=0)
    """Factor of the learning rates of everything but the head; below 1 where the blocks start from weights."""
    weight_decay: Decay = 4e-3
    """Fraction of itself that a weight loses per step at the peak learning rate; muon's experts have a fixed norm."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Shape of the decay of the learning rates, down to zero."""
    warmup: Fraction = 0.0
    """Fraction of the steps in which the learning rates rise linearly from zero."""
    label_smoothing: Fraction = 0.2
    """Share of the target spread evenly over the classes."""
    ema: Decay = 0.0
    """Decay per step of the exponential moving average of weights that is evaluated and saved; 0 for none."""

    @field_validator("name")
    @classmethod
    def _registered(cls, name: str) -> str:
        from dynconv.training.optim import OPTIMIZERS  # which imports this module

        if name not in OPTIMIZERS:
            raise ValueError(f"must be one of {', '.join(OPTIMIZERS)}, not {name}")
        return name


class TrainConfig(Frozen):
    """A training run. The defaults are those of the preset `quick`."""

    preset: str = "quick"
    """The preset that this run started from."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of the weights, the order of the images and their augmentation."""
    epochs: int = Field(5, ge=1, le=MOST_EPOCHS)
    """Passes over the training set."""
    batch_size: int = Field(500, ge=1, le=MOST_IMAGES)
    """Images per step of the optimizer."""
    micro_batch: int | Literal["auto"] = 500
    """Images per forward and backward pass; gradients accumulate over a batch. Also what batch norm averages over.
    auto: as many of a batch as fit into the memory that is free at the start."""
    image_sizes: tuple[Annotated[int, Field(ge=8, le=LARGEST_SIZE)], ...] = (24, 24, 24, 28, 32)
    """Side of the training images in pixels; several sizes share the epochs evenly, in this order, up to the last."""
    holdout: int = Field(0, ge=0, le=MOST_IMAGES)
    """Images taken out of the training set, class-balanced, for validation: tune on these, not on the test set."""
    tta: bool = True
    """Also report test-time augmentation: of unsure images, the image and its mirror, each at three translations."""
    precision: RequestedPrecision = "auto"
    """Of the forward and backward pass. auto: bf16 where it is multiplied natively, else fp16 on a GPU with tensor
    cores, else fp32. In fp16 the loss is scaled."""
    init: str = ""
    """Weights to start from: a run, a weights file, or the name of packaged ones. The network is theirs, but for the
    model fields that you set; a head for other classes is new."""
    freeze: tuple[str, ...] = ()
    """What stays as it is: block1, block2, ..., or of all blocks experts, routers, biases; or head."""
    on_nan: Literal["stop", "restart"] = "stop"
    """Where a loss or a weight is not finite. stop: end, with the weights of the last saved state. restart: go on from
    that state with half the learning rates, five times at most."""
    data: DataConfig = DataConfig()
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the training images in the loss. balanced: N / (K n) for the images of a class that has n of the N,
    with K classes, so that all classes weigh alike and the mean weight is 1."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """What an epoch shows. shuffled: each training image once. balanced: as many images, drawn so that all classes come
    equally often; those of rare classes are repeated."""
    patience: int = Field(0, ge=0, le=1_000_000)
    """Epochs without a better accuracy on the hold-out after which training ends; 0 for no such end. Keeps the weights
    of the epoch that was best on the hold-out. Learning rates still decay over all epochs, so a run that ends early
    misses the low ones, which help most: lowering epochs is often better."""
    target: Fraction = 0.0
    """Accuracy on the hold-out, 0 to 1, at which training ends, with the weights that reach it; 0 for none. Learning
    rates decay over all epochs, as with patience."""
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: object) -> object:
        number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 11 else value
        if number != "auto" and (type(number) is not int or not 1 <= number <= MOST_IMAGES):
            raise ValueError(f"must be auto, or a whole number from 1 to {MOST_IMAGES}, not {value}")
        return number

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.micro_batch != "auto" and self.batch_size % self.micro_batch and self.micro_batch < self.batch_size:
            raise ValueError(f"micro_batch: {self.micro_batch} does not divide batch_size {self.batch_size}")
        if not self.image_sizes:
            raise ValueError("image_sizes: needs at least one size")
        return self

    @model_validator(mode="after")
    def _classes_are_balanced_once(self) -> Self:
        if self.class_weights == self.sampling == "balanced":
            raise ValueError("sampling: balanced classes need no class_weights, which would count rare ones twice")
        return self

    @model_validator(mode="after")
    def _frozen_parts_exist(self) -> Self:
        blocks = [f"block{number}" for number in range(1, len(self.model.widths) + 1)]
        for name in self.freeze:
            if name not in (*blocks, *FREEZABLE):
                raise ValueError(f"freeze: must be of block1 to {blocks[-1]}, {', '.join(FREEZABLE)}, not {name}")
        return self

    @property
    def images_per_pass(self) -> int:
        """`micro_batch` as a number, which it is once training has started."""
        if self.micro_batch == "auto":
            raise ValueError("micro_batch: auto is not a number yet; see training.memory.fitting_micro_batch")
        return self.micro_batch

    def image_size(self, epoch: int) -> int:
        """Side of the training images in `epoch` (from 0), in pixels.

        With fewer epochs than sizes the last epochs' sizes are kept: a network has to end at the size it is tested at.
        """
        sizes = self.image_sizes[-self.epochs :]
        return sizes[epoch * len(sizes) // self.epochs]
