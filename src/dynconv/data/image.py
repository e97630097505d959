"""Any picture -> RGB pixels of the network's size. Class folders, arrays, `predict` and the server all use this.

- EXIF orientation is applied. Only the first frame of an animation is used.
- Transparent parts become white; grey, palette and CMYK images become RGB; 16 bits are scaled to 8.
- Grey images of more than 8 bits often use few of them, as those of a camera of 12 bits do: see `_DEPTHS`.
- An image of another size or shape becomes the square that a `Frame` describes.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dynconv.data.dataset import DataError
from dynconv.data.frame import Frame
from dynconv.errors import escaped

_DEPTHS = (8, 12, 16, 24, 32)
"""Bits that a deep grey image may use. The fewest that hold its largest value count as its range, as no file says it.

A picture that really has 16 bits is taken for one of 12 only if it is darker than a sixteenth of white everywhere. 10
and 14 bits are left out: such a picture becomes darker than it was, but a dark one of 12 or 16 bits no brighter."""

_ORDINARY = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""Formats of still images, as Pillow names them. Pillow also reads videos, documents and scientific data."""

ENDINGS = frozenset(ending for ending, form in Image.registered_extensions().items() if form in _ORDINARY)
"""Lower-case extensions of files that count as images when a folder is searched: .png, .jpg, .tiff and so on."""


def read_image(
    source: Path | BinaryIO,
    name: str | None = None,
    *,
    frame: Frame,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Reads one image file as uint8 [size, size, 3].

    Args:
        source: a path, or an open file.
        name: the name in error messages; by default the path.
        frame: what becomes of other sizes and shapes.
        formats: the accepted formats, as Pillow names them; by default all that it knows.
        max_pixels: refuses an image whose header claims more pixels; by default Pillow's limit.

    Raises:
        DataError: not an image, damaged, or so large that decoding it could exhaust the memory.
    """
    image = read_picture(source, name, formats=formats, max_pixels=max_pixels)
    return np.asarray(frame.of(image))


def read_picture(
    source: Path | BinaryIO,
    name: str | None = None,
    *,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Reads as `read_image` does, as a PIL image in RGB of its own size, upright."""
    name = escaped(name or str(source))
    try:
        with _open(source, formats) as file:
            if file.format == "EPS":  # Pillow hands it to Ghostscript, whatever the ending of the file
                raise DataError(f"{name}: is PostScript, which only another program can render; save it as PNG")
            if file.mode == "F":
                raise DataError(f"{name}: has floating-point pixels of unknown range; save it with 8 or 16 bits")
            if max_pixels and file.width * file.height > max_pixels:
                size = f"{file.width}x{file.height}"
                raise DataError(f"{name}: has {size} pixels, more than {max_pixels:,}; scale it down")
            return in_rgb(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: too large to decode safely ({error}); scale it down") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders can raise anything, such as struct.error for a damaged EXIF
        if isinstance(error, OSError) and error.strerror:  # from the system, not from Pillow
            raise DataError(f"{name}: cannot be read ({error.strerror})") from error
        raise DataError(f"{name}: damaged, or not an image; remove or replace it") from error


_FILTERS = threading.Lock()


def _open(source: Path | BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    """Reads the header; the pixels are decoded later, outside the lock. Warning filters are shared by all threads."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(source, formats=formats)


def size_of(source: Path | BinaryIO) -> tuple[int, int] | None:
    """Width and height by the header of an image file; None where it cannot be read."""
    try:
        with _open(source, None) as file:
            return file.size
    except Exception:  # as for `read_picture`, which will say what is wrong
        return None


def from_pil(image: Image.Image, frame: Frame) -> np.ndarray:
    """A PIL image of any mode as uint8 [size, size, 3]."""
    return np.asarray(frame.of(in_rgb(image)))


def in_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode in RGB, upright."""
    stored = _stored_mode(image)
    image.load()  # a PNG's EXIF may come after its pixels
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose() copies an upright image
        image = ImageOps.exif_transpose(image)
    image = _with_eight_bits(image, stored)
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image


def _stored_mode(image: Image.Image) -> str:
    """How the file stores a pixel, such as "L;2" or "RGB;16B"; empty once the image is decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else ""


def _with_eight_bits(image: Image.Image, stored: str) -> Image.Image:
    """Scales grey of more than 8 bits, which convert() would clip at 255, and the colour that a PNG makes transparent.

    Pillow returns that colour as the file stores it, even if it scales the pixels themselves to 8 bits. Colours that
    agree in their upper 8 bits then count as the same colour.
    """
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        used = int(values.max(initial=0)).bit_length()
        depth = next(bits for bits in _DEPTHS if bits >= used)
        grey = Image.fromarray((values >> (depth - 8)).clip(0).astype(np.uint8))
        if not isinstance(clear, int):
            return grey
        return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
    if image.mode == "L" and isinstance(clear, int) and stored in ("L;2", "L;4"):
        scaled: object = clear * {"L;2": 85, "L;4": 17}[stored]
    elif image.mode == "RGB" and isinstance(clear, tuple) and (stored.startswith("RGB;16") or max(clear) > 255):
        scaled = tuple(value >> 8 for value in clear)
    else:
        return image
    image = image.copy()  # the original may belong to the caller
    image.info["transparency"] = scaled
    return image
