"""The individual experts: the kernels of the first block, and the images on which each expert has most weight."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from dynconv.model.net import Net
from dynconv.report.plot import Plot, draw
from dynconv.report.section import Content, section
from dynconv.report.subject import Routing, Subject
from dynconv.report.thumbnail import Thumbnail, thumbnail

EXCITING = 6
"""Number of images shown for each expert."""
MOST_EXPERTS = 60
"""With more experts than this, over all blocks, no images are shown."""


@section("experts", "Experts", order=32)
def make(subject: Subject) -> Content | None:
    """Shows the network's kernels and, if the images are available, those of each expert; None without the network."""
    if subject.predictor is None:
        return None
    routing, experts = subject.routing, subject.predictor.model.per_block("experts")
    few = len(experts) < sum(experts) <= MOST_EXPERTS
    images = _exciting(routing, subject.classes) if routing and few else []
    return Content([first_kernels(subject.predictor.net)], {"exciting": images})


def _exciting(routing: Routing, classes: tuple[str, ...]) -> list[tuple[str, list[Thumbnail]]]:
    """For each expert, the images with its largest routing weights."""
    found = []
    for number, a_NK in enumerate(routing.weights, 1):
        for k in range(a_NK.shape[1]):
            top = a_NK[:, k].topk(min(EXCITING, len(a_NK))).indices.tolist()
            shown = [
                thumbnail(routing.sample.images[i], classes[int(routing.sample.labels[i])], f"{float(a_NK[i, k]):.2f}")
                for i in top
            ]
            found.append((f"block {number}, expert {k + 1}", shown))
    return found


def first_kernels(net: Net, shown: int = 24) -> Plot:
    """Plots the first block's experts as images: what each output channel responds to in the pixels."""
    conv = next(iter(net.backbone)).conv
    weight_KOCHW = _dense(conv.weight.detach().float().cpu(), conv.groups)
    if net.input.whiten:  # map back to pixels through the fixed filters, ignoring their non-linearity
        whitening = net.input.whitening.float().cpu()
        k, o = weight_KOCHW.shape[:2]
        pixels = F.conv_transpose2d(weight_KOCHW.flatten(0, 1), whitening).unflatten(0, (k, o))
    else:
        pixels = weight_KOCHW
    tiles = pixels[:, :shown].expand(-1, -1, 3, -1, -1).permute(0, 1, 3, 4, 2)
    limit = tiles.abs().amax((2, 3, 4), keepdim=True).clamp_min(1e-12)
    tiles = 0.5 + 0.5 * tiles / limit
    k, count, height, width, _ = tiles.shape

    def paint(figure: Figure) -> None:
        for row, axes in enumerate(np.atleast_1d(figure.subplots(k, 1))):
            # Leaves one blank pixel between the tiles.
            strip = torch.ones(height, count * (width + 1) - 1, 4)
            strip[..., 3] = 0
            for column in range(count):
                left = column * (width + 1)
                strip[:, left : left + width] = torch.cat((tiles[row, column], torch.ones(height, width, 1)), -1)
            axes.imshow(strip.numpy(), interpolation="nearest")
            axes.set_yticks([height / 2 - 0.5], labels=[f"expert {row + 1}"])
            axes.set_xticks([])
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(False)

    what = "RGB" if net.input.colours == 3 else "brightness"
    through = f"mapped to {what} through the whitening filters, without their non-linearity"
    how = through if net.input.whiten else f"in {what}"
    caption = f"Kernels of block 1's experts: the first {count} output channels, {how}; grey is zero."
    return draw("kernels", caption, paint, 8, 0.3 + 0.42 * k)


def _dense(weight_KOCHW: Tensor, groups: int) -> Tensor:
    """The same kernels with all input channels, those outside of their group being zero."""
    k, o, c, height, width = weight_KOCHW.shape
    whole = weight_KOCHW.new_zeros(k, o, groups * c, height, width)
    for group in range(groups):
        outputs = slice(group * o // groups, (group + 1) * o // groups)
        whole[:, outputs, group * c : (group + 1) * c] = weight_KOCHW[:, outputs]
    return whole
