"""Where the pixels of a batch go: mirrored, shifted, cropped, mapped, and which of them lie in a box.

Pure functions: what happens to an image depends on the image and on its own row of the other arguments alone.

Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mirror(x_NCHW: Tensor, which_N: Tensor) -> Tensor:
    """Mirrors, left to right, the images for which which_N is true."""
    return torch.where(which_N[:, None, None, None], x_NCHW.flip(3), x_NCHW)


def shifted(x_NCHW: Tensor, shift_N2: Tensor, reach: int) -> Tensor:
    """Shifts each image by its own (down, right) pixels, within +-reach; reflects at the border."""
    n, _, h, w = x_NCHW.shape
    padded_NHWC = F.pad(x_NCHW.float(), (reach,) * 4, mode="reflect").to(x_NCHW.dtype).permute(0, 2, 3, 1)
    rows_NH = torch.arange(h, device=x_NCHW.device) + reach - shift_N2[:, :1]
    cols_NW = torch.arange(w, device=x_NCHW.device) + reach - shift_N2[:, 1:]
    image_N = torch.arange(n, device=x_NCHW.device)
    return padded_NHWC[image_N[:, None, None], rows_NH[:, :, None], cols_NW[:, None, :]].permute(0, 3, 1, 2)


def draw_boxes(
    count: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draws `count` boxes for images of any size: area, width over height, and place; float32 [count, 4].

    The area is uniform within `scale`, as a share of the image's; the ratio is log-uniform within `ratio`; the place,
    down and right, is uniform in [0, 1].
    """
    drawn_N4 = torch.rand(count, 4, generator=generator)
    low, high = map(math.log, ratio)
    drawn_N4[:, 0] = scale[0] + (scale[1] - scale[0]) * drawn_N4[:, 0]
    drawn_N4[:, 1] = (low + (high - low) * drawn_N4[:, 1]).exp()
    return drawn_N4


def box_in(drawn_N4: Tensor, height: int, width: int) -> Tensor:
    """The drawn boxes within an image: (top, left, height, width) in pixels, not rounded, float32 [N, 4].

    Where the drawn ratio would make a box longer than the image, the nearest one that fits takes its place, so the area
    stays as drawn.
    """
    area_N = drawn_N4[:, 0] * (height * width)
    ratio_N = drawn_N4[:, 1].maximum(area_N / height**2).minimum(width**2 / area_N)
    height_N = (area_N / ratio_N).sqrt().clamp(max=height)
    width_N = (area_N * ratio_N).sqrt().clamp(max=width)
    return torch.stack(
        (drawn_N4[:, 2] * (height - height_N), drawn_N4[:, 3] * (width - width_N), height_N, width_N), dim=1
    )


def inside(box_N4: Tensor, height: int, width: int) -> Tensor:
    """Boolean [N,1,H,W], true for pixels whose centre is in the image's box (top, left, height, width)."""
    top_N1, left_N1, height_N1, width_N1 = box_N4.split(1, dim=1)
    down_NH = torch.arange(height, device=box_N4.device) + 0.5 - top_N1
    right_NW = torch.arange(width, device=box_N4.device) + 0.5 - left_N1
    inside_NH, inside_NW = (down_NH >= 0) & (down_NH < height_N1), (right_NW >= 0) & (right_NW < width_N1)
    return (inside_NH[:, :, None] & inside_NW[:, None, :])[:, None]


def boxes(centre_N2: Tensor, height: int, width: int, box_height: int, box_width: int) -> Tensor:
    """Boolean [N,1,H,W], true inside the box around each centre (row, column), clipped at the border."""
    rows_NH = torch.arange(height, device=centre_N2.device) - centre_N2[:, :1] + box_height // 2
    cols_NW = torch.arange(width, device=centre_N2.device) - centre_N2[:, 1:] + box_width // 2
    inside_NH, inside_NW = (rows_NH >= 0) & (rows_NH < box_height), (cols_NW >= 0) & (cols_NW < box_width)
    return (inside_NH[:, :, None] & inside_NW[:, None, :])[:, None]


def cropped(x_NCHW: Tensor, box_N4: Tensor) -> Tensor:
    """Enlarges each uint8 image's box (top, left, height, width; in pixels) to the image's size, bilinear."""
    height, width = x_NCHW.shape[2:]
    top_N1, left_N1, height_N1, width_N1 = box_N4.split(1, dim=1)
    # grid_sample counts from -1 at the first pixel's outer edge to 1 at the last one's.
    y_NH = (top_N1 + (torch.arange(height, device=x_NCHW.device) + 0.5) * (height_N1 / height)) * (2 / height) - 1
    x_NW = (left_N1 + (torch.arange(width, device=x_NCHW.device) + 0.5) * (width_N1 / width)) * (2 / width) - 1
    # Clamped to the outermost pixels' centres, where padding plays no part: not every device has each kind of padding.
    y_NH, x_NW = y_NH.clamp(1 / height - 1, 1 - 1 / height), x_NW.clamp(1 / width - 1, 1 - 1 / width)
    grid_NHW2 = torch.stack(torch.broadcast_tensors(x_NW[:, None, :], y_NH[:, :, None]), dim=3)
    return F.grid_sample(x_NCHW.float(), grid_NHW2, align_corners=False).round().to(torch.uint8)


def affine(x_NCHW: Tensor, matrix_N6: Tensor) -> Tensor:
    """Maps each image by its own matrix (a, b, c, d, e, f), as Pillow's `Image.transform` does.

    The output at (x, y) is the input's nearest pixel at (ax + by + c, dx + ey + f), and 0 outside the input.
    """
    n, c, h, w = x_NCHW.shape
    x_W = torch.arange(w, device=x_NCHW.device) + 0.5
    y_H1 = torch.arange(h, device=x_NCHW.device)[:, None] + 0.5
    first, second, third, fourth, fifth, sixth = matrix_N6[:, :, None, None].unbind(1)
    col_NHW = (first * x_W + second * y_H1 + third).floor().long()
    row_NHW = (fourth * x_W + fifth * y_H1 + sixth).floor().long()
    within_NHW = (col_NHW >= 0) & (col_NHW < w) & (row_NHW >= 0) & (row_NHW < h)
    source_NHW = row_NHW.clamp(0, h - 1) * w + col_NHW.clamp(0, w - 1)
    found = x_NCHW.flatten(2).gather(2, source_NHW.flatten(1)[:, None].expand(n, c, h * w))
    return found.view(n, c, h, w) * within_NHW[:, None]


def rotated(x_NCHW: Tensor, degrees_N: Tensor) -> Tensor:
    """Turns each image counterclockwise about its centre; nearest pixel, black outside."""
    h, w = x_NCHW.shape[2:]
    # On the main processor, in double precision: a turn by 90 degrees then falls on pixels.
    angle_N = degrees_N.cpu().double().deg2rad()
    cos_N, sin_N = angle_N.cos(), angle_N.sin()
    matrix_N6 = torch.stack(
        (cos_N, -sin_N, w / 2 * (1 - cos_N) + h / 2 * sin_N, sin_N, cos_N, h / 2 * (1 - cos_N) - w / 2 * sin_N), dim=1
    )
    return affine(x_NCHW, matrix_N6.float().to(x_NCHW.device))


def sheared(x_NCHW: Tensor, slope_N: Tensor, *, vertical: bool = False) -> Tensor:
    """Moves row y of each image left by slope * y pixels; or column x up by slope * x. Nearest pixel, black outside."""
    return affine(x_NCHW, _matrix(slope_N, 3 if vertical else 1))


def moved(x_NCHW: Tensor, pixels_N: Tensor, *, vertical: bool = False) -> Tensor:
    """Moves each image left, or up, by its own number of pixels; black outside."""
    return affine(x_NCHW, _matrix(pixels_N, 5 if vertical else 2))


def _matrix(value_N: Tensor, place: int) -> Tensor:
    """The identity of `affine`, but for one entry."""
    matrix_N6 = torch.tensor([1.0, 0, 0, 0, 1, 0], device=value_N.device).repeat(len(value_N), 1)
    matrix_N6[:, place] = value_N
    return matrix_N6
