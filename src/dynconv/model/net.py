"""The network of the specification, readable top to bottom.

    Net = InputTransform -> Backbone(Block 1, ..., Block N) -> Head

Shape suffixes: N images, C channels, H x W spatial, K experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dynconv.layer.conv import DynamicConv2d
from dynconv.layer.pooling import spatial_mean
from dynconv.model.block_end import pool_norm_act
from dynconv.model.config import PER_BLOCK, ModelConfig


def to_unit_range(images_NCHW: Tensor) -> Tensor:
    """Images as floats in [0, 1]: uint8 is divided by 255 and stored channels_last; floats are returned unchanged."""
    if images_NCHW.is_floating_point():
        return images_NCHW
    return images_NCHW.to(torch.float32, memory_format=torch.channels_last) / 255


torch.fx.wrap("to_unit_range")  # an opaque step for torch.fx, which cannot trace its branch when folding batch norm


_LUMA = (0.299, 0.587, 0.114)


class InputTransform(nn.Module):
    """Fixed preprocessing: images [N, 3, H, W], uint8 or floats in [0, 1] -> standardised and optionally whitened.

    Nothing is learned. If grey, the C = 3 colours first become C = 1 channel, the luma of ITU-R BT.601 as in Pillow.
    Whitening maps each 2x2 patch to its 4C principal components scaled to unit variance, then keeps
    their positive and negative parts apart: [N, 8C, H-1, W-1]. The statistics are buffers, saved and loaded with the
    weights; `fit` computes them from training images. Without them, `forward` raises RuntimeError.
    """

    mean: Tensor
    std: Tensor
    whitening: Tensor

    def __init__(self, whiten: bool, eps: float = 5e-4, grey: bool = False) -> None:
        super().__init__()
        self.whiten = whiten
        self.eps = eps
        self.colours = 1 if grey else 3
        self.fitted = False
        self.register_buffer("mean", torch.zeros(self.colours))
        self.register_buffer("std", torch.zeros(self.colours))
        self.register_buffer("whitening", torch.zeros(8 * self.colours if whiten else 0, self.colours, 2, 2))

    @property
    def channels(self) -> int:
        return 8 * self.colours if self.whiten else self.colours

    @torch.no_grad()
    def fit(self, images_N3HW: Tensor) -> None:
        """Computes the statistics from training images, uint8 or in [0, 1]; those of patches from the first 5,000.

        Raises:
            ValueError: a colour channel has the same value in all images, so it cannot be standardised.
        """
        x = self._coloured(to_unit_range(images_N3HW))
        names = ["red", "green", "blue"] if self.colours == 3 else ["brightness"]
        for name, x_NHW in zip(names, x.unbind(1), strict=True):
            if (x_NHW == x_NHW[0, 0, 0]).all():
                raise ValueError(f"images: every pixel has the same {name}; give images that differ")
        self.mean.copy_(x.mean((0, 2, 3)))
        self.std.copy_(x.std((0, 2, 3)))
        if self.whiten:
            covariance, count = x.new_zeros(len(self.whitening) // 2, len(self.whitening) // 2, dtype=torch.float64), 0
            for some in x[:5000].split(50):  # few enough for a processor's cache
                patches_NCL = F.unfold(self._standardise(some), 2).double()
                covariance += (patches_NCL @ patches_NCL.mT).sum(0)
                count += patches_NCL.shape[0] * patches_NCL.shape[2]
            variance, components = torch.linalg.eigh(covariance / count)
            filters = (components / (variance + self.eps).sqrt()).T.flip(0).view(-1, self.colours, 2, 2)
            self.whitening.copy_(torch.cat((filters, -filters)))
        self.fitted = True

    def _coloured(self, x_N3HW: Tensor) -> Tensor:
        if self.colours == 3:
            return x_N3HW
        return (x_N3HW * x_N3HW.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)

    def _standardise(self, x_NCHW: Tensor) -> Tensor:
        return (x_NCHW - self.mean[:, None, None]) / self.std[:, None, None]

    def forward(self, images_N3HW: Tensor) -> Tensor:
        if not self.fitted:
            raise RuntimeError(
                "the input statistics were never set: call net.input.fit(images) with training images, uint8 or in "
                "[0, 1], or load weights with load_state_dict"
            )
        x = self._standardise(self._coloured(to_unit_range(images_N3HW)))
        return F.gelu(F.conv2d(x, self.whitening)) if self.whiten else x

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self.fitted = self.std.is_meta or bool((self.std > 0).any())


class SqueezeExcite(nn.Module):
    """x [N, C, H, W] with its channels scaled by 2 sigmoid(W2 relu(W1 SpatialAveragePool(x))), which start at 1.

    Squeeze-and-excitation (Hu et al. 2018, https://arxiv.org/abs/1709.01507); the factor 2 makes it start as the
    identity.

    Args:
        channels: C.
        hidden: width of the hidden layer.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        scale_NC = 2 * self.expand(F.relu(self.reduce(spatial_mean(x_NCHW)))).sigmoid()
        return x_NCHW * scale_NC.to(x_NCHW.dtype)[:, :, None, None]


class Block(nn.Module):
    """One block: the router predicts a from the block's own input, a mixes the K experts, then come the extras.

    a = g(SpatialAveragePool(X) W);  O = a_1 Conv_1(X) + ... + a_K Conv_K(X);  pool, norm, nonlinearity, dropout.
    Maps [N, C, H, W] to [N, widths[index], H', W'].
    """

    def __init__(self, config: ModelConfig, index: int, in_channels: int) -> None:
        super().__init__()
        out_channels = config.widths[index]
        own = {name: config.per_block(name)[index] for name in PER_BLOCK}
        kernel, stride, pool = own["kernel_sizes"], own["strides"], own["pools"]
        self.conv = DynamicConv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=kernel // 2,
            groups=own["groups"],
            bias=config.norm == "none",
            experts=own["experts"],
            expert_kernel_sizes=config.expert_kernel_sizes or None,
            expert_dilations=config.expert_dilations or None,
            router_hidden=own["router_hidden"],
            gate=own["gate"],
            temperature=config.temperature,
        )
        if config.identity_init:
            self.conv.add_identity()
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if config.norm == "batch":
            self.norm = nn.BatchNorm2d(out_channels, config.norm_eps, config.norm_momentum)
            self.norm.weight.requires_grad_(False)
        self.act = nn.GELU() if config.nonlinearity == "gelu" else nn.ReLU()
        self.dropout = nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()
        same_shape = in_channels == out_channels and stride == pool == 1
        wanted = bool(own["residual"])
        if wanted and not same_shape and len(config.residual) > 1:
            raise ValueError(f"residual: block {index + 1} changes the shape of its input, so it cannot be added")
        self.residual = wanted and same_shape
        self.excite: nn.Module = nn.Identity()
        if own["squeeze_excite"]:
            self.excite = SqueezeExcite(out_channels, own["squeeze_excite"])
        self.scale = nn.Parameter(torch.ones(())) if self.residual and config.residual_scale else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = pool_norm_act(self.conv(x_NCHW), self.pool, self.norm, self.act)
        out = self.dropout(self.excite(out))
        if self.scale is not None:
            out = out * self.scale
        return out + x_NCHW if self.residual else out


class Backbone(nn.Sequential):
    """Block 1, ..., Block N."""

    def __init__(self, config: ModelConfig, in_channels: int) -> None:
        widths = (in_channels, *config.widths[:-1])
        super().__init__(*(Block(config, i, channels) for i, channels in enumerate(widths)))

    def __iter__(self) -> Iterator[Block]:
        yield from (cast("Block", block) for block in super().__iter__())


class Head(nn.Module):
    """f = SpatialAveragePool(O_N), then softmax regression or an MLP: [N, C, H, W] -> logits [N, classes]."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.widths[-1], config.head_hidden) if config.head_hidden else None
        width = config.head_hidden or config.widths[-1]
        self.linear = nn.Linear(width, classes)
        # Logits start small, so that the first steps train the backbone, not just the head.
        nn.init.normal_(self.linear.weight, std=1 / width)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        f_NC = x_NCHW.mean((2, 3))
        if self.hidden is not None:
            f_NC = F.relu(self.hidden(f_NC))
        logits: Tensor = self.linear(f_NC)
        return logits


class Net(nn.Module):
    """The network that `config` describes, with weights drawn from torch's generator.

    Images [N, 3, H, W], uint8 or floats in [0, 1] -> logits [N, classes]. A new network needs the statistics of its
    images before its first use: `net.input.fit(images)`.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.input = InputTransform(config.whiten, config.whiten_eps, config.grey)
        self.backbone = Backbone(config, self.input.channels)
        self.head = Head(config, classes)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(self.input(images_N3HW)))
        return logits

    def routing_weights(self, images_N3HW: Tensor) -> list[Tensor]:
        """The routing weights a of every block, [N, K] each, for images as `forward` takes them."""
        x, weights = self.input(images_N3HW), []
        for block in self.backbone:
            weights.append(block.conv.routing_weights(x))
            x = block(x)
        return weights


def shapes_of(config: ModelConfig, classes: int) -> Net:
    """The network on the meta device: shapes without values, whatever their size.

    Raises:
        ValueError: the parts of the network do not fit together.
    """
    with torch.device("meta"), _Undrawn():
        return Net(config.model_copy(update={"identity_init": False}), classes)  # of no consequence here, but slow


class _Undrawn(TorchFunctionMode):
    """Draws no normal numbers: torch would import its compiler for that on the meta device, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.init.normal_:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))
