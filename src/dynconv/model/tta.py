"""Images -> logits in evaluation: batch by batch, with or without test-time augmentation.

Training and inference share this code, so a run's final accuracy can be reproduced to the last bit.
Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.model.net import to_unit_range

EVAL_BATCH = 250
"""Images of 32x32 per forward pass. Larger batches would not stay in a CPU's cache between layers. Fixed, because the
batch size can change the last bits of a logit."""
TTA_VIEWS = 6
"""Views of an image that test-time augmentation averages over."""
TTA_MARGIN = 0.7
"""Images whose two likeliest classes differ by less in probability are augmented, about half of them. Augmenting the
others as well changed the accuracy by 0.002 points, on the average of 20 networks (benchmarks/unsure.json). Each image
is judged by itself, so an answer does not depend on the images that are classified along with it."""
_BATCHES_AT_ONCE = 8  # of unsure images; several processes share them


def evaluation_batch(side: int) -> int:
    """Images of side x side pixels per forward pass: as many pixels as in `EVAL_BATCH` images of 32x32."""
    return min(EVAL_BATCH, max(1, EVAL_BATCH * 32 * 32 // max(side, 1) ** 2))


@torch.no_grad()
def batched_logits(net: nn.Module, images_NCHW: Tensor, *, views: bool = False) -> Tensor:
    """Logits float32 [N, classes] for uint8 images [N, C, H, W], on their device, with `net` in evaluation mode.

    With `views`, each is the mean over six views of its image. Runs under the caller's autocast, and restores the mode
    of `net` afterwards.
    """
    was_training = net.training
    net.eval()
    try:
        parts = []
        for batch in images_NCHW.split(evaluation_batch(images_NCHW.shape[-1])):
            parts.append((mean_over_views(net, batch) if views else net(batch)).float())
    finally:
        net.train(was_training)
    return torch.cat(parts)


def tta_logits(logits_NK: Tensor, images_NCHW: Tensor, over_views: Callable[[Tensor], Tensor]) -> Tensor:
    """Test-time augmentation: replaces the logits of unsure images by the mean over six views, and leaves the others.

    Args:
        logits_NK: float32 [N, classes], without augmentation.
        over_views: computes `batched_logits` with views, for some of the images.
    """
    rows = unsure(logits_NK).nonzero()[:, 0]
    if not len(rows):
        return logits_NK
    whole_NK = logits_NK.clone()
    # Images may lie in a file larger than the memory, so only some of them are copied at a time.
    for some in rows.split(_BATCHES_AT_ONCE * evaluation_batch(images_NCHW.shape[-1])):
        whole_NK[some] = over_views(images_NCHW.index_select(0, some.to(images_NCHW.device)))
    return whole_NK


def unsure(logits_NK: Tensor, margin: float = TTA_MARGIN) -> Tensor:
    """Of which images the probabilities of the two likeliest classes differ by less than `margin`; bool [N]."""
    best = logits_NK.softmax(1).topk(min(2, logits_NK.shape[1]), dim=1).values
    return best[:, 0] - best[:, 1:].sum(1) < margin


def mean_over_views(net: nn.Module, images_NCHW: Tensor) -> Tensor:
    """The mean of the logits of six views, of image and mirror image, unshifted and shifted.

    The shifts are one pixel along the diagonal in either direction, with reflection at the border. The unshifted pair
    has half the weight. From airbench (Jordan 2024, https://arxiv.org/abs/2404.00498).

    Args:
        images_NCHW: uint8, or floats in [0, 1]; at least 2x2 pixels.

    Returns:
        float32 [N, classes].
    """
    x_NCHW = to_unit_range(images_NCHW)
    height, width = x_NCHW.shape[2:]
    padded = F.pad(x_NCHW, (1, 1, 1, 1), mode="reflect")
    moved = [padded[:, :, d : d + height, d : d + width] for d in (0, 2)]
    return 0.5 * _with_mirror(net, x_NCHW) + 0.25 * sum(_with_mirror(net, x) for x in moved)


def _with_mirror(net: nn.Module, x_NCHW: Tensor) -> Tensor:
    # Slicing and flip lose channels_last, and with it the fast convolutions.
    views = (x_NCHW, x_NCHW.flip(3))
    first, second = (net(x.contiguous(memory_format=torch.channels_last)).float() for x in views)
    return 0.5 * (first + second)
