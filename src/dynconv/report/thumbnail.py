"""Small images on a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, and the lines of text under it."""

    source: str
    lines: tuple[str, ...]


def thumbnail(image_CHW: Tensor, *lines: str) -> Thumbnail:
    """Makes a thumbnail of a uint8 image [3, H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return Thumbnail("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), lines)
