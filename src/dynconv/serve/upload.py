"""A request's body -> the pixels of its images, within the limits. Whoever sends it may mean harm."""

from __future__ import annotations

import io
from collections.abc import Sequence

from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive
from torch import Tensor

from dynconv.data import DataError
from dynconv.data.image import read_image
from dynconv.inference.predictor import to_pixels
from dynconv.serve.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Of the dozens that Pillow reads: those of browsers and phones, without the ones that start other programs."""
_JPEG_SCANS = 100
"""More than any camera or program writes; each costs a pass over all pixels, and hardly a byte."""


async def receive_images(request: Request, limits: Limits) -> list[bytes]:
    """The image files in a body: of a form all files called `image`, else the body as it is.

    Raises:
        HTTPException: 400 no form, cut off, or too many files; 413 too many bytes; 415 another type; 422 no image.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body:
        raise _too_many_bytes(limits)
    bounded = Request(request.scope, _bounded(request.receive, limits))
    try:
        if kind == "multipart/form-data":
            async with bounded.form(max_files=limits.images, max_fields=limits.images) as form:
                images = await _files(form)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            images = [await bounded.body()]
        else:
            raise HTTPException(
                415, f"content type: must be image/*, or multipart/form-data with files; it is {kind!r}"
            )
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was cut off") from error
    if not images or not all(images):
        raise HTTPException(422, "no image: the body, or a file in it, is empty")
    return images


def read_pixels(images: Sequence[bytes], limits: Limits) -> list[Tensor]:
    """uint8 [3, 32, 32] of each image. Raises HTTPException 422 at the first that cannot be read, by its number."""
    try:
        return [_read(image, f"image {number}", limits) for number, image in enumerate(images, 1)]
    except DataError as error:
        raise HTTPException(422, str(error)) from error


def _read(image: bytes, name: str, limits: Limits) -> Tensor:
    if image.startswith(b"\xff\xd8") and image.count(b"\xff\xda") > _JPEG_SCANS:
        raise DataError(f"{name}: a JPEG of more than {_JPEG_SCANS} scans; save it anew")
    return to_pixels(read_image(io.BytesIO(image), name, formats=FORMATS, max_pixels=limits.pixels))


async def _files(form: FormData) -> list[bytes]:
    files: list[bytes] = []
    for name, value in form.multi_items():
        if name != "image" or not isinstance(value, UploadFile):
            raise HTTPException(422, "form: all fields must be files called image, as curl -F image=@photo.jpg sends")
        files.append(await value.read())
    return files


def _bounded(receive: Receive, limits: Limits) -> Receive:
    """As `receive`, until the body becomes too large: a length need not be declared, and not truly."""
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
