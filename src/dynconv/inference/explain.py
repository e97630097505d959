"""What the routing of a trained network does: which experts each class uses, and what accuracy depends on it.

Shape suffixes: N images, C channels, H x W spatial, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynconv.inference.predictor import Predictor
from dynconv.machine import autocast
from dynconv.model.net import Net, to_unit_range
from dynconv.model.tta import evaluation_batch

_NORMAL_95 = 1.96


@torch.no_grad()
def routing_weights(predictor: Predictor, images_NCHW: Tensor) -> list[Tensor]:
    """The routing weights a of each block, float32 [N, K] on the CPU, for uint8 images [N, 3, H, W]."""
    with autocast(predictor.device, predictor.precision):
        batches = images_NCHW.split(evaluation_batch(images_NCHW.shape[-1]))
        parts = [predictor.net.routing_weights(batch.to(predictor.device)) for batch in batches]
    return [torch.cat(blocks).float().cpu() for blocks in zip(*parts, strict=True)]


def class_means(a_NK: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Mean routing weights of the images of each class, [classes, K]; NaN for a class without images."""
    sums = torch.zeros(classes, a_NK.shape[1]).index_add_(0, labels_N, a_NK)
    return sums / torch.bincount(labels_N, minlength=classes)[:, None]


@dataclass(frozen=True)
class Ablation:
    """Accuracy with the routing weights replaced.

    Attributes:
        accuracy: 0..1.
        lost: the drop from the unchanged network's accuracy, -1..1; negative for a gain.
        margin: half the width of the 95 % confidence interval of `lost`, from paired differences per image.
    """

    accuracy: float
    lost: float
    margin: float


def ablate(
    predictor: Predictor, images_NCHW: Tensor, labels_N: Tensor, routing: Sequence[Tensor]
) -> tuple[float, dict[str, Ablation]]:
    """Accuracy of the unchanged network, and with the routing weights of all blocks replaced.

    Args:
        routing: the images' own, as `routing_weights` gives them.

    Returns:
        The accuracy, 0..1, and the ablations by name: "mean" (each block's weights averaged over these images),
        "shuffled" (those of another image, chosen at random), "uniform" (1/K).
    """
    means = [a_NK.mean(0).to(predictor.device) for a_NK in routing]
    generator = torch.Generator().manual_seed(0)

    def shuffled(_: int, a_NK: Tensor) -> Tensor:
        return a_NK[torch.randperm(len(a_NK), generator=generator)]

    replacements: dict[str, Callable[[int, Tensor], Tensor]] = {
        "mean": lambda block, a_NK: means[block].to(a_NK.dtype).expand_as(a_NK),
        "shuffled": shuffled,
        "uniform": lambda _, a_NK: torch.full_like(a_NK, 1 / a_NK.shape[1]),
    }
    right = (predictor.logits(images_NCHW).argmax(1) == labels_N).double()
    found = {}
    for name, replace in replacements.items():
        with rerouted(predictor.net, replace):
            difference = right - (predictor.logits(images_NCHW).argmax(1) == labels_N).double()
        lost = difference.mean().item()
        margin = _NORMAL_95 * difference.std(correction=0).item() / len(difference) ** 0.5
        found[name] = Ablation(right.mean().item() - lost, lost, margin)
    return right.mean().item(), found


@contextmanager
def rerouted(net: Net, replace: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, block b (from 0) mixes its experts by replace(b, a) instead of its own a [N, K]."""

    def hook(block: int) -> Callable[..., Any]:
        return lambda conv, inputs, _: (inputs, {"routing_weights": replace(block, conv.routing_weights(*inputs))})

    handles = [
        block.conv.register_forward_pre_hook(hook(number), with_kwargs=True)
        for number, block in enumerate(net.backbone)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def verdict(accuracy: float, ablations: dict[str, Ablation], experts: int, images: int) -> str:
    """Whether routing affects accuracy, in one sentence."""
    if experts == 1:
        return "There is one expert in each block (K = 1), so there is nothing to route."
    mean = ablations["mean"]
    if mean.lost > mean.margin:
        finding = "Routing matters"
    elif mean.lost < -mean.margin:
        finding = "Routing does harm"
    else:
        finding = "Routing makes no measurable difference"
    return (
        f"{finding}: giving every image the average routing weights changes accuracy from {accuracy:.2%} to "
        f"{mean.accuracy:.2%} ({100 * (0 - mean.lost):+.2f} ± {100 * mean.margin:.2f} points, 95 % interval, "
        f"{images:,} test images)."
    )


def attribution(predictor: Predictor, image_CHW: Tensor, label: int) -> Tensor:
    """Gradient x input: the signed contribution of each pixel to the logit of class `label`, float32 [H, W].

    The input is the standardised image, so a pixel of the training set's mean colour contributes nothing.
    """
    net = predictor.net
    x = to_unit_range(image_CHW[None].to(predictor.device)).requires_grad_()
    with torch.enable_grad(), autocast(predictor.device, predictor.precision):
        (gradient,) = torch.autograd.grad(net(x)[0, label], x)
    product = gradient * (x - net.input.mean[:, None, None])
    return product[0].sum(0).detach().float().cpu()
