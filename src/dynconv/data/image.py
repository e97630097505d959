"""Any picture -> RGB pixels of the network's size. Class folders, arrays, `predict` and the server all come here.

- EXIF orientation is applied. Of an animation the first frame counts.
- Transparent parts become white; grey, palette and CMYK images become RGB; 16-bit grey is scaled to 8 bits.
- Another size than 32x32: the shorter side is resized to 32 (bilinear, anti-aliased) and the centre cut out.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dynconv.data.dataset import DataError

SIZE = 32
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""Of the files that are taken for images where a folder is searched."""


def read_image(
    source: Path | BinaryIO,
    name: str | None = None,
    *,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """One image file as uint8 [32, 32, 3].

    Args:
        source: a path, or an open file.
        name: what an error calls it; by default the path.
        formats: those that are read, as Pillow names them; by default all that it knows.
        max_pixels: of the image, as its header says; by default Pillow's limit.

    Raises:
        DataError: not an image, damaged, or so large that decoding it could exhaust the memory.
    """
    name = name or str(source)
    try:
        with _open(source, formats) as file:
            if max_pixels and file.width * file.height > max_pixels:
                size = f"{file.width}x{file.height}"
                raise DataError(f"{name}: has {size} pixels, more than {max_pixels:,}; scale it down")
            return from_pil(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: too large to decode safely ({error}); scale it down") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise what they please: struct.error of a damaged EXIF, for one
        if isinstance(error, OSError) and error.strerror:  # the system's, not Pillow's
            raise DataError(f"{name}: cannot be read ({error.strerror})") from error
        raise DataError(f"{name}: damaged, or not an image; remove or replace it") from error


_FILTERS = threading.Lock()


def _open(source: Path | BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    """Reads the header; the pixels are decoded later, outside of the lock. Filters of warnings are not per thread."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(source, formats=formats)


def from_pil(image: Image.Image) -> np.ndarray:
    """A PIL image as uint8 [32, 32, 3]."""
    image.load()  # a PNG's EXIF may come after its pixels
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose() copies an upright image
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 or 32 bits of grey; convert() would cut them off at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)
