"""The parameters and answers of the API, as OpenAPI shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(populate_by_name=True, use_attribute_docstrings=True)


_TOP: list[Any] = [{"class": "ship", "probability": 0.91}, {"class": "truck", "probability": 0.03}]
_PREDICTION: dict[str, Any] = {"images": [{"class": "ship", "probability": 0.91, "top": _TOP}]}
_MODEL: dict[str, Any] = {
    "name": "accurate",
    "version": "1.0.0",
    "loaded": "2026-01-31T12:00:00Z",
    "data": "cifar10",
    "classes": ["ship", "truck"],
    "blocks": 1,
    "experts": [2],
    "class_routing": [[[0.6, 0.4], [0.3, 0.7]]],
    "samples": ["ship"],
    "limits": {"body": 8_000_000, "images": 16, "pixels": 25_000_000},
}


class PredictParameters(BaseModel):
    """The query parameters of a request."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(3, ge=1, le=1000, description="Number of classes per image", examples=[2])
    routing: bool = Field(False, description="Include the routing weights of each block")


class Ranked(_Schema):
    """A class and its probability."""

    class_: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class ImageAnswer(Ranked):
    """One image: its most probable class, and in top the most probable ones."""

    top: list[Ranked]
    routing: list[list[float]] | None = None
    """The routing weights of each block, [blocks][experts], if they were requested."""


class PredictAnswer(_Schema):
    """The answers for the images, in the order in which they were sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PREDICTION]})

    images: list[ImageAnswer]


class LimitsAnswer(_Schema):
    """The limits of a request."""

    body: int
    """Maximum size of the body, in bytes."""
    images: int
    """Maximum number of images."""
    pixels: int
    """Maximum number of pixels in each image."""


class ModelAnswer(_Schema):
    """The network being served."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MODEL]})

    name: str
    version: str
    """The version of dynconv."""
    loaded: datetime
    """When the weights were loaded."""
    data: str
    """The name of the data set that the network was trained on."""
    classes: list[str]
    blocks: int
    experts: list[int]
    """K, the number of experts, of each block."""
    class_routing: list[list[list[float | None]]]
    """The mean routing weights of each class, [blocks][classes][experts]; empty if unknown."""
    samples: list[str]
    """Classes for which GET /samples/{class}.png returns a drawing."""
    limits: LimitsAnswer


class StateAnswer(_Schema):
    """The state of the server: alive, or ready."""

    status: str = Field(examples=["ready"])


class ErrorAnswer(_Schema):
    """One line: what is wrong, where, and what to do."""

    error: str = Field(examples=["image 2: damaged, or not an image; remove or replace it"])


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The body is incomplete, the form is unreadable, or has too many files"},
    401: {"model": ErrorAnswer, "description": "The key is missing or wrong"},
    408: {"model": ErrorAnswer, "description": "The body took too long to arrive"},
    413: {"model": ErrorAnswer, "description": "The body is too large"},
    415: {"model": ErrorAnswer, "description": "The body is neither an image nor a form"},
    422: {"model": ErrorAnswer, "description": "No image, a damaged image, too many pixels, or a wrong parameter"},
    429: {
        "model": ErrorAnswer,
        "description": "Too many requests per second from this client, or too many that are still arriving",
        "headers": _RETRY_AFTER,
    },
    503: {"model": ErrorAnswer, "description": "The queue is full", "headers": _RETRY_AFTER},
}
for _status, _example in {
    400: "Too many files. Maximum number of files is 16.",
    401: "the key is missing or wrong; send Authorization: Bearer KEY",
    408: "the body took more than 30 seconds to arrive",
    413: "body: more than 8000000 bytes; send fewer or smaller images",
    415: "the body is neither an image nor a form with images; send an image with curl --data-binary @photo.jpg",
    422: "image 2: damaged, or not an image; remove or replace it",
    429: "more than 10 requests per second; try again later",
    503: "the queue is full; try again later",
}.items():
    PREDICT_ERRORS[_status]["content"] = {"application/json": {"example": {"error": _example}}}
PREDICT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
                "additionalProperties": False,
            }
        },
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
        },
    },
}
