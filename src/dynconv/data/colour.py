"""What the pixels of a batch look like: brightness, contrast, colour, sharpness, and operations on their values.

Pure functions of uint8 images [N, C, H, W], C = 3 (RGB) or 1 (grey), and of one value per image [N]. An image's result
depends on nothing but itself and its value. They compute what Pillow's ImageEnhance and ImageOps do, in integers where
Pillow does. So an epoch has the same pixels on every device.

Shape suffixes: N images, C channels, H x W spatial.
"""

from __future__ import annotations

import torch
from torch import Tensor


def luminance(x_NCHW: Tensor) -> Tensor:
    """Grey values uint8 [N, 1, H, W], by ITU-R 601-2 as Pillow rounds it; grey images as they are."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    red, green, blue = x_NCHW.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def blend(from_: Tensor, x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """from_ + factor * (x - from_), clipped; decimals are cut off, as in Pillow. 0: `from_`; 1: the image."""
    start, factor_N111 = from_.float(), factor_N.float()[:, None, None, None]
    return (x_NCHW.float() - start).mul_(factor_N111).add_(start).clamp_(0, 255).to(torch.uint8)


def brightness(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Black at 0, the image at 1. ImageEnhance.Brightness."""
    return blend(x_NCHW.new_zeros(()), x_NCHW, factor_N)


def contrast(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Each image's mean grey at 0, the image at 1. ImageEnhance.Contrast."""
    grey = luminance(x_NCHW)
    pixels = grey.shape[1:].numel()
    mean_N111 = (2 * grey.sum((1, 2, 3), dtype=torch.int64, keepdim=True) + pixels) // (2 * pixels)
    return blend(mean_N111, x_NCHW, factor_N)


def saturation(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Grey at 0, the image at 1. ImageEnhance.Color."""
    return blend(luminance(x_NCHW), x_NCHW, factor_N)


def sharpness(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Smoothed at 0, the image at 1, sharpened above. ImageEnhance.Sharpness; the outermost pixels stay as they are."""
    height, width = x_NCHW.shape[2:]
    if height < 3 or width < 3:
        return x_NCHW
    value = x_NCHW.int()
    rows = value[:, :, :-2] + value[:, :, 1:-1] + value[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = x_NCHW.clone()  # the kernel's weights: 5 in the middle, 1 around it, 13 in all
    smooth[:, :, 1:-1, 1:-1] = ((2 * (around + 4 * value[:, :, 1:-1, 1:-1]) + 13) // 26).to(torch.uint8)
    return blend(smooth, x_NCHW, factor_N)


def hue(x_NCHW: Tensor, turn_N: Tensor) -> Tensor:
    """Turns each image's hue by its own share of the colour circle; saturation and value stay. Grey ones: no change.

    With the hue H in sixths of the circle, chroma C and least channel m, HSV's inverse is red = m + C r(|H - 3| - 1),
    green = m + C r(2 - |H - 2|), blue = m + C r(2 - |H - 4|), where r restricts to [0, 1].
    """
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    red, green, blue = x_NCHW.float().split(1, dim=1)
    value, least = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    chroma = value - least
    span = chroma.clamp(min=1)  # a grey pixel's hue does not matter
    sixths = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    sixths = (sixths + 6 * turn_N.float()[:, None, None, None]).remainder(6)
    parts = torch.cat(((sixths - 3).abs() - 1, 2 - (sixths - 2).abs(), 2 - (sixths - 4).abs()), dim=1)
    return parts.clamp_(0, 1).mul_(chroma).add_(least).round_().to(torch.uint8)


def solarize(x_NCHW: Tensor, threshold_N: Tensor) -> Tensor:
    """Inverts the values from the threshold, 0..256, upwards. ImageOps.solarize."""
    return torch.where(x_NCHW < threshold_N[:, None, None, None], x_NCHW, 255 - x_NCHW)


def posterize(x_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keeps the upper bits, 0..8, of each value. ImageOps.posterize."""
    mask_N = 256 - 2 ** (8 - bits_N.int())
    return (x_NCHW.int() & mask_N[:, None, None, None]).to(torch.uint8)


def autocontrast(x_NCHW: Tensor) -> Tensor:
    """Stretches each channel of each image to 0..255; one of a single value stays. ImageOps.autocontrast."""
    low, high = x_NCHW.amin((2, 3), keepdim=True).int(), x_NCHW.amax((2, 3), keepdim=True).int()
    stretched = (x_NCHW.int() - low) * 255 // (high - low).clamp(min=1)
    return torch.where(high > low, stretched.to(torch.uint8), x_NCHW)


def equalize(x_NCHW: Tensor) -> Tensor:
    """Makes the values of each channel of each image about equally frequent. ImageOps.equalize."""
    n, c, h, w = x_NCHW.shape
    channel_NC = torch.arange(n * c, device=x_NCHW.device).view(n * c, 1)
    value = x_NCHW.reshape(n * c, h * w).long()
    counts = (value + 256 * channel_NC).flatten().bincount(minlength=256 * n * c).view(n * c, 256)
    most = value.amax(1, keepdim=True)
    step = (h * w - counts.gather(1, most)) // 255  # without the pixels of the largest value
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=x_NCHW.device))
    return table.gather(1, value).to(torch.uint8).view(n, c, h, w)
