"""Common corruptions of images, computed here. They are not the files of CIFAR-10-C; do not compare with its figures.

Each function takes uint8 images [N, 3, H, W] and a strength, and returns images of the same type and shape. The kinds
of corruption are those of Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def noise(images_NCHW: Tensor, deviation: float) -> Tensor:
    """Adds Gaussian noise with this standard deviation in grey levels (of 255); the same noise at every call."""
    drawn = torch.randn(images_NCHW.shape, generator=torch.Generator().manual_seed(0))
    return _to_uint8(images_NCHW + deviation * drawn)


def blur(images_NCHW: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian; sigma in pixels."""
    reach = min(math.ceil(3 * sigma), min(images_NCHW.shape[2:]) - 1)
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    line /= line.sum()
    channels = images_NCHW.shape[1]
    x = F.pad(images_NCHW.float(), [reach] * 4, mode="reflect")
    for kernel in (line[:, None], line[None, :]):
        x = F.conv2d(x, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return _to_uint8(x)


def contrast(images_NCHW: Tensor, factor: float) -> Tensor:
    """Multiplies the distance of each pixel from the image's mean by factor < 1."""
    mean = images_NCHW.float().mean((1, 2, 3), keepdim=True)
    return _to_uint8(mean + factor * (images_NCHW - mean))


def brightness(images_NCHW: Tensor, added: float) -> Tensor:
    """Adds this many grey levels (of 255) to every pixel."""
    return _to_uint8(images_NCHW.float() + added)


def jpeg(images_NCHW: Tensor, quality: float) -> Tensor:
    """Compresses as JPEG with this quality (1 to 95) and decodes again."""
    decoded = []
    for image in images_NCHW.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=round(quality))
        with Image.open(buffer) as file:
            decoded.append(np.array(file))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def _to_uint8(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...], str]] = {
    "noise": (noise, (10, 20, 40), "standard deviation, grey levels of 255"),
    "blur": (blur, (0.5, 1, 1.5), "sigma, pixels"),
    "contrast": (contrast, (0.6, 0.35, 0.2), "factor"),
    "brightness": (brightness, (30, 60, 90), "grey levels added"),
    "JPEG": (jpeg, (50, 25, 10), "quality"),
}
"""Name -> function, strengths from mild to strong, meaning of the strength."""
