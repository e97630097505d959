"""What a run is: every hyper-parameter, typed, frozen and validated. Imports neither torch nor any other module.

The text under a field is its help on the command line; its bounds are what a wrong value is answered with.
Fields of `ModelConfig` that are tuples have one entry per block, or a single entry that holds for all blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FIXED = {
    "biases and classifier, muon": {"momentum": 0.85},
    "routers, muon": {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "newton-schulz": {"steps": 3, "a": 3.4445, "b": -4.7750, "c": 2.0315},
    "batch norm": {"momentum": 0.1, "epsilon": 1e-5},
    "whitening": {"epsilon": 5e-4},
}
"""The numbers of the recipe that are no options, by where they are used; each run's environment.json records them."""

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(_Frozen):
    """The images."""

    source: str = "cifar10"
    """cifar10 (found or downloaded, else an error), shapes (generated), auto (any found, else shapes), or a path."""
    holdout: int = Field(0, ge=0)
    """Images taken out of the training set, class-balanced, for validation: tune on these, not on the test set."""


class AugmentConfig(_Frozen):
    """What is done to training images, at random."""

    flip: Literal["alternating", "random", "none"] = "alternating"
    """Horizontal flip. alternating: each image is flipped at random once, then in every other epoch."""
    translate: int = Field(2, ge=0, le=16)
    """Largest shift in pixels, after reflection padding."""
    cutout: int = Field(0, ge=0, le=32)
    """Side of the square that is blanked out, in pixels; 0 for none."""
    mixup: float = Field(0.0, ge=0)
    """Parameter alpha of mixup's Beta distribution; 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Parameter alpha of cutmix's Beta distribution; 0 for none."""


class ModelConfig(_Frozen):
    """The network."""

    whiten: bool = True
    """Fixed input transform: 2x2 patches whitened by the training images' statistics, positive and negative parts."""
    widths: tuple[PositiveInt, ...] = (64, 64, 256, 256, 256, 256)
    """Output channels of each block; their number is the number of blocks N."""
    kernel_sizes: tuple[PositiveInt, ...] = (3,)
    """Side of the experts' kernels, odd."""
    strides: tuple[PositiveInt, ...] = (1,)
    """Stride of the experts."""
    pools: tuple[PositiveInt, ...] = (2, 1, 2, 1, 2, 1)
    """Side of the max pooling after the experts; 1 for none."""
    residual: tuple[bool, ...] = (False,)
    """Add the block's input to its output, without parameters, where the shapes agree."""
    experts: PositiveInt = 4
    """K, the number of convolutions in each block."""
    activation: Literal["softmax", "sigmoid", "sparsemax"] = "softmax"
    """g, the router's non-linear activation. sigmoid is scaled by 2/K, so that all three start at 1/K."""
    temperature: float = Field(1.0, gt=0)
    """The router's logits are divided by it."""
    router_hidden: int = Field(0, ge=0)
    """Width of the router's hidden layer; 0 for a linear router."""
    identity_init: bool = True
    """Experts start as the identity plus independent noise, instead of noise alone."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation after the experts. batch: scale fixed at 1, only the bias is learned."""
    nonlinearity: Literal["gelu", "relu"] = "gelu"
    """Activation at the end of each block."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that a channel of a block's output is dropped."""
    classifier_hidden: int = Field(0, ge=0)
    """Width of the classifier's hidden layer; 0 for softmax regression."""

    @model_validator(mode="after")
    def _one_entry_per_block(self) -> Self:
        n = len(self.widths)
        if n == 0:
            raise ValueError("widths: needs at least one block")
        for name in ("kernel_sizes", "strides", "pools", "residual"):
            if len(getattr(self, name)) not in (1, n):
                raise ValueError(f"{name}: has {len(getattr(self, name))} entries, needs 1 or {n}, one per block")
        if any(k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError(f"kernel_sizes: must be odd, not {self.kernel_sizes}")
        return self

    def per_block(self, name: str) -> tuple[int, ...]:
        """The field `name` with one entry per block."""
        values: tuple[int, ...] = getattr(self, name)
        return values * len(self.widths) if len(values) == 1 else values


class OptimConfig(_Frozen):
    """How its weights are learned."""

    name: Literal["muon", "sgd", "adamw"] = "muon"
    """muon: orthogonalised momentum for the experts, each by itself, SGD-Nesterov for biases and classifier, Adam for
    routers. sgd (Nesterov), adamw: one optimizer and one learning rate for all."""
    lr: float = Field(0.24, gt=0)
    """Peak learning rate: of the experts with muon, of everything with sgd and adamw."""
    momentum: float = Field(0.6, ge=0, lt=1)
    """Momentum of muon and of sgd; not used by adamw."""
    router_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the routers, with muon."""
    bias_lr: float = Field(106.0, gt=0)
    """Peak learning rate of the backbone's biases, with muon."""
    classifier_lr: float = Field(0.05, gt=0)
    """Peak learning rate of the classifier, with muon."""
    weight_decay: float = Field(4e-3, ge=0, lt=1)
    """Fraction of itself that a weight loses per step at the peak learning rate; muon's experts have a fixed norm."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Shape of the decay of the learning rates, down to zero."""
    warmup: Fraction = 0.0
    """Fraction of the steps in which the learning rates rise linearly from zero."""
    label_smoothing: Fraction = 0.2
    """Share of the target spread evenly over the classes."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of the exponential moving average of weights that is evaluated and saved; 0 for none."""


class RunConfig(_Frozen):
    """A training run."""

    preset: str = "custom"
    """The preset that this run started from."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of the weights, the order of the images and their augmentation."""
    run: Path | None = None
    """Directory to write; new, or empty. Default: runs/<time>-<preset>-<data>-seed<seed>."""
    epochs: PositiveInt = 10
    """Passes over the training set."""
    batch_size: PositiveInt = 2000
    """Images per step of the optimizer."""
    micro_batch: PositiveInt = 500
    """Images per forward and backward pass; gradients accumulate over a batch. Also what batch norm averages over."""
    image_sizes: tuple[Annotated[int, Field(ge=8, le=256)], ...] = (32,)
    """Side of the training images in pixels; several sizes share the epochs evenly, in this order."""
    tta: bool = True
    """Also report test-time augmentation: the image and its mirror, each at three translations."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the activations. auto: bf16 where the processor multiplies it natively, else fp32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.micro_batch and self.micro_batch < self.batch_size:
            raise ValueError(f"micro_batch: {self.micro_batch} does not divide batch_size {self.batch_size}")
        if not self.image_sizes:
            raise ValueError("image_sizes: needs at least one size")
        return self

    def image_size(self, epoch: int) -> int:
        """Side of the training images in `epoch` (from 0), in pixels."""
        return self.image_sizes[epoch * len(self.image_sizes) // self.epochs]
