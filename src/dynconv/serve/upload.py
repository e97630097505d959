"""A request's body -> the pixels of its images, within the limits. The sender is not trusted."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import torch
from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive
from torch import Tensor

from dynconv.data import DataError
from dynconv.data.frame import Frame
from dynconv.data.image import read_image
from dynconv.serve.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The formats of browsers and phones, of the dozens that Pillow reads. None of them starts another program."""
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
"""The first bytes of files in these formats, except WebP."""
_JPEG_SCANS = 100
"""Maximum scans, more than any camera or program writes. A scan takes few bytes but costs a pass over all pixels."""
_DIGITS = 20
"""Maximum number of digits of a content length that is parsed as a number."""

# Of a form that cannot be read, the sender hears in a 400; a line for each would let anyone fill the server's log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


async def receive_images(request: Request, limits: Limits) -> list[bytes]:
    """The image files in a body: all files called `image` in a form, or else the body itself.

    Raises:
        HTTPException: 400 not a form, incomplete, or too many files; 413 too many bytes; 415 neither a form nor an
            image; 422 no image.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > limits.body):
        raise _too_many_bytes(limits)
    bounded = Request(request.scope, _bounded(request.receive, limits))
    try:
        if kind == "multipart/form-data":
            images = await _receive_form(bounded, limits)
        else:
            images = [await bounded.body()]
    except ClientDisconnect as error:
        raise HTTPException(400, "the body is incomplete") from error
    announced = kind.startswith("image/") or kind in ("application/octet-stream", "multipart/form-data")
    if not announced and not _is_image(images[0]):
        raise HTTPException(
            415,
            "the body is neither an image nor a form with images; send an image with curl --data-binary @photo.jpg, "
            "or several with curl -F image=@one.png -F image=@two.png",
        )
    if not images or not all(images):
        raise HTTPException(422, "no image: the body, or a file in it, is empty")
    return images


async def _receive_form(request: Request, limits: Limits) -> list[bytes]:
    try:
        async with request.form(max_files=limits.images, max_fields=limits.images) as form:
            return await _files(form)
    except (StarletteHTTPException, ClientDisconnect):
        raise
    except Exception as error:  # raised by the parser, such as UnicodeError for a charset that cannot decode
        raise HTTPException(400, "the form cannot be read; send it as curl -F image=@photo.jpg does") from error


def _is_image(body: bytes) -> bool:
    """Whether the body begins like a file in one of `FORMATS`. curl declares any body a form unless told otherwise."""
    return body.startswith(_SIGNATURES) or (body.startswith(b"RIFF") and body[8:12] == b"WEBP")


def read_pixels(images: Sequence[bytes], frame: Frame, limits: Limits) -> list[Tensor]:
    """Decodes each image to uint8 [3, size, size], as `frame` says.

    Raises HTTPException 422 with the number of the first unreadable one.
    """
    try:
        return [_read(image, f"image {number}", frame, limits) for number, image in enumerate(images, 1)]
    except DataError as error:
        raise HTTPException(422, str(error)) from error


def _read(image: bytes, name: str, frame: Frame, limits: Limits) -> Tensor:
    if image.startswith(b"\xff\xd8") and image.count(b"\xff\xda") > _JPEG_SCANS:
        raise DataError(f"{name}: a JPEG with more than {_JPEG_SCANS} scans; save it again")
    pixels = read_image(io.BytesIO(image), name, frame=frame, formats=FORMATS, max_pixels=limits.pixels)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


async def _files(form: FormData) -> list[bytes]:
    files: list[bytes] = []
    for name, value in form.multi_items():
        if name != "image" or not isinstance(value, UploadFile):
            raise HTTPException(
                422, "form: all fields must be files called image, as curl -F image=@photo.jpg sends them"
            )
        files.append(await value.read())
    return files


def _bounded(receive: Receive, limits: Limits) -> Receive:
    """Wraps `receive` to raise once the body is too large: its declared length may be missing or wrong."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limits.body:
            raise _too_many_bytes(limits)
        return message

    return bounded


def _too_many_bytes(limits: Limits) -> HTTPException:
    return HTTPException(413, f"body: more than {limits.body} bytes; send fewer or smaller images")
