"""uint8 images -> augmented batches. Augmentations are pure functions of a whole batch and what was drawn for it.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.config import AugmentConfig
from dynconv.data.dataset import Split


def to_float(images_NCHW: Tensor) -> Tensor:
    """uint8 [N,C,H,W] -> float32 in [0, 1], channels_last."""
    return images_NCHW.to(torch.float32, memory_format=torch.channels_last).div_(255)


def flip(x_NCHW: Tensor, which_N: Tensor) -> Tensor:
    """Mirrors the images where which_N is true, left to right."""
    return torch.where(which_N[:, None, None, None], x_NCHW.flip(3), x_NCHW)


def translate(x_NCHW: Tensor, shift_N2: Tensor, reach: int) -> Tensor:
    """Shifts each image by its own (down, right) pixels, within +-reach; reflects at the border."""
    n, _, h, w = x_NCHW.shape
    padded_NHWC = F.pad(x_NCHW.float(), (reach,) * 4, mode="reflect").to(x_NCHW.dtype).permute(0, 2, 3, 1)
    rows_NH = torch.arange(h, device=x_NCHW.device) + reach - shift_N2[:, :1]
    cols_NW = torch.arange(w, device=x_NCHW.device) + reach - shift_N2[:, 1:]
    image_N = torch.arange(n, device=x_NCHW.device)
    return padded_NHWC[image_N[:, None, None], rows_NH[:, :, None], cols_NW[:, None, :]].permute(0, 3, 1, 2)


def boxes(centre_N2: Tensor, height: int, width: int, box_height: int, box_width: int) -> Tensor:
    """Boolean [N,1,H,W], true inside the box around each centre (row, column), clipped at the border."""
    rows_NH = torch.arange(height, device=centre_N2.device) - centre_N2[:, :1] + box_height // 2
    cols_NW = torch.arange(width, device=centre_N2.device) - centre_N2[:, 1:] + box_width // 2
    inside_NH, inside_NW = (rows_NH >= 0) & (rows_NH < box_height), (cols_NW >= 0) & (cols_NW < box_width)
    return (inside_NH[:, :, None] & inside_NW[:, None, :])[:, None]


def cutout(x_NCHW: Tensor, centre_N2: Tensor, size: int) -> Tensor:
    """Blanks a square of `size` pixels with the batch's mean colour. DeVries and Taylor 2017, arXiv 1708.04552."""
    height, width = x_NCHW.shape[2:]
    box = boxes(centre_N2, height, width, size, size)
    return torch.where(box, x_NCHW.mean((0, 2, 3), keepdim=True), x_NCHW)


def mixup(x_NCHW: Tensor, target_NK: Tensor, order_N: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """share * itself + (1 - share) * another image of the batch, and so the targets. Zhang 2018, arXiv 1710.09412."""
    return x_NCHW.lerp(x_NCHW[order_N], 1 - share), target_NK.lerp(target_NK[order_N], 1 - share)


def cutmix(x_NCHW: Tensor, target_NK: Tensor, order_N: Tensor, share: float, centre_2: Tensor) -> tuple[Tensor, Tensor]:
    """Pastes a box of 1 - share of the area from another image; targets by the area. Yun 2019, arXiv 1905.04899."""
    height, width = x_NCHW.shape[2:]
    side = (1 - share) ** 0.5
    box = boxes(centre_2[None], height, width, round(side * height), round(side * width))
    pasted = float(box.float().mean())
    return torch.where(box, x_NCHW[order_N], x_NCHW), target_NK.lerp(target_NK[order_N], pasted)


def resize(x_NCHW: Tensor, size: int) -> Tensor:
    """Bilinear with anti-aliasing, to size x size."""
    if x_NCHW.shape[2:] == (size, size):
        return x_NCHW
    return F.interpolate(x_NCHW, (size, size), mode="bilinear", antialias=True, align_corners=False)


def training_batches(
    split: Split, classes: int, augment: AugmentConfig, batch_size: int, image_size: int, epoch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's augmented batches: images float32 [N,3,size,size] in [0,1]; int64 targets [N], or [N,K] if mixed.

    All is drawn from generators seeded by (seed, epoch), so an epoch is the same after a resume. Images that do not
    fill a last batch are left out, another random few in every epoch.
    """
    count, device = len(split.labels), split.images.device
    batch_size = min(batch_size, count)
    drawn = torch.Generator().manual_seed(seed * 100_003 + epoch)
    flips = _flips(augment.flip, count, epoch, seed, drawn)
    order = torch.randperm(count, generator=drawn)
    for start in range(0, count - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        images, target = split.images[index.to(device)], split.labels[index.to(device)]
        images = flip(images, flips[index].to(device))
        if augment.translate:
            reach = augment.translate
            shift = torch.randint(-reach, reach + 1, (batch_size, 2), generator=drawn)
            images = translate(images, shift.to(device), reach)
        yield _mix(resize(_cut(to_float(images), augment.cutout, drawn), image_size), target, classes, augment, drawn)


def _flips(policy: str, count: int, epoch: int, seed: int, drawn: torch.Generator) -> Tensor:
    if policy == "none":
        return torch.zeros(count, dtype=torch.bool)
    if policy == "random":
        return torch.rand(count, generator=drawn) < 0.5
    first = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first ^ bool(epoch % 2)


def _cut(x_NCHW: Tensor, size: int, drawn: torch.Generator) -> Tensor:
    if not size:
        return x_NCHW
    centre = torch.randint(x_NCHW.shape[2], (len(x_NCHW), 2), generator=drawn)
    return cutout(x_NCHW, centre.to(x_NCHW.device), size)


def _mix(
    x_NCHW: Tensor, target: Tensor, classes: int, augment: AugmentConfig, drawn: torch.Generator
) -> tuple[Tensor, Tensor]:
    """mixup, cutmix or, where both are on, one of them by a coin."""
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(augment, kind)]
    if not kinds:
        return x_NCHW, target
    kind = kinds[int(torch.randint(len(kinds), (), generator=drawn))]
    target_NK = F.one_hot(target, classes).float()
    order = torch.randperm(len(x_NCHW), generator=drawn).to(x_NCHW.device)
    share = _beta(getattr(augment, kind), drawn)
    if kind == "mixup":
        return mixup(x_NCHW, target_NK, order, share)
    centre = torch.tensor([int(torch.randint(side, (), generator=drawn)) for side in x_NCHW.shape[2:]])
    return cutmix(x_NCHW, target_NK, order, share, centre.to(x_NCHW.device))


def _beta(alpha: float, drawn: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as a ratio of gamma variates; torch.distributions takes no generator."""
    gammas = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=drawn)
    return float(gammas[0] / gammas.sum()) if gammas.sum() > 0 else 0.5
