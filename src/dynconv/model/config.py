"""The configuration of a network: everything about its architecture, nothing about its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dynconv.layer.routing import GATES
from dynconv.validation import Frozen

MOST_BLOCKS, MOST_EXPERTS, MOST_CHANNELS, LARGEST_SIDE = 1000, 4096, 65_536, 255
"""Limits of a network, far beyond what can be trained. Within them no size overflows, and shapes take seconds at most
to compute, whatever a file claims."""

Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Hidden = Annotated[int, Field(ge=0, le=MOST_CHANNELS)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Experts = Annotated[int, Field(ge=1, le=MOST_EXPERTS)]

PER_BLOCK = (
    "kernel_sizes", "strides", "groups", "pools", "residual", "experts", "gate", "router_hidden", "squeeze_excite",
)  # fmt: skip
"""Fields with one entry per block, or one for all."""


class ModelConfig(Frozen):
    """The network's architecture.

    Tuples have one entry per block, or a single entry for all blocks. The defaults are those of the preset `quick`.
    """

    grey: bool = False
    """Fixed input transform: colours become one channel of brightness. For images that are grey anyway, it saves two
    thirds of what the input costs."""
    whiten: bool = True
    """Fixed input transform: whiten 2x2 patches by the training images' statistics, then split them by sign."""
    whiten_eps: float = Field(5e-4, gt=0)
    """Added to the variance of each principal component before whitening."""
    widths: Annotated[tuple[Channels, ...], Field(max_length=MOST_BLOCKS)] = (32, 32, 128, 128, 128, 128)
    """Output channels of each block; the number of entries is the number of blocks N."""
    kernel_sizes: tuple[Side, ...] = (3,)
    """Side of the experts' kernels; must be odd."""
    expert_kernel_sizes: tuple[Side, ...] = ()
    """Side of each expert's own kernel, in the middle of one of kernel_sizes: one entry per expert, or none."""
    expert_dilations: tuple[Side, ...] = ()
    """Dilation of each expert's own kernel: one entry per expert, or none."""
    strides: tuple[Side, ...] = (1,)
    """Stride of the experts."""
    pools: tuple[Side, ...] = (2, 1, 2, 1, 2, 1)
    """Side of the max pooling after the experts; 1 for none."""
    residual: tuple[bool, ...] = (False,)
    """Add the block's input to its output. A single true adds it wherever the shapes agree."""
    residual_scale: bool = False
    """Multiply a residual block's output by a learned number, which starts at 1, before the input is added."""
    squeeze_excite: tuple[Hidden, ...] = (0,)
    """Hidden width of squeeze-and-excitation, which scales the channels of a block's output; 0 for none."""
    groups: tuple[Channels, ...] = (1,)
    """Groups of channels that the experts convolve separately; must divide a block's input and output channels."""
    experts: tuple[Experts, ...] = (2,)
    """K, the number of convolutions in a block."""
    gate: tuple[str, ...] = ("softmax",)
    """g, the router's non-linear activation: softmax, sigmoid, sparsemax, or any other registered gate."""
    temperature: float = Field(1.0, gt=0)
    """Divisor of the routers' logits."""
    router_hidden: tuple[Hidden, ...] = (0,)
    """Width of the router's hidden layer; 0 for a linear router."""
    identity_init: bool = True
    """Experts start as the identity plus independent noise, instead of noise alone."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation after the experts. batch: scale fixed at 1, only the bias is learned."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """Share of each batch in batch normalisation's running statistics."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance in batch normalisation."""
    nonlinearity: Literal["gelu", "relu"] = "gelu"
    """Activation at the end of each block."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that a channel of a block's output is dropped."""
    head_hidden: int = Field(0, ge=0, le=MOST_CHANNELS)
    """Width of the head's hidden layer; 0 for softmax regression."""

    @field_validator("experts", "gate", "router_hidden", mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        """A single value without brackets, as older files have it."""
        return (value,) if isinstance(value, int | str) else value

    @field_validator("gate")
    @classmethod
    def _registered(cls, gates: tuple[str, ...]) -> tuple[str, ...]:
        for gate in gates:
            if gate not in GATES:
                raise ValueError(f"must be one of {', '.join(GATES)}, not {gate}")
        return gates

    @model_validator(mode="after")
    def _one_entry_per_block(self) -> Self:
        n = len(self.widths)
        if n == 0:
            raise ValueError("widths: needs at least one block")
        for name in PER_BLOCK:
            if (given := len(getattr(self, name))) not in (1, n):
                ways = f"{n}, or 1 for all blocks" if n > 1 else "1"
                raise ValueError(
                    f"{name}: has {given} entries, and model.widths has {n}, one per block; give it {ways}"
                )
        if any(k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError(f"kernel_sizes: must be odd, not {self.kernel_sizes}")
        return self

    @property
    def experts_text(self) -> str:
        """K in words: "2", or "1, 1, 2, 4" where blocks differ."""
        return ", ".join(map(str, dict.fromkeys(self.experts) if len(set(self.experts)) == 1 else self.experts))

    def per_block(self, name: str) -> tuple[Any, ...]:
        """The field `name` with one entry per block."""
        values: tuple[Any, ...] = getattr(self, name)
        return values * len(self.widths) if len(values) == 1 else values
