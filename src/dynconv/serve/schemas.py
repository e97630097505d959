"""The parameters and answers of the interface, as OpenAPI shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(populate_by_name=True, use_attribute_docstrings=True)


class PredictParameters(BaseModel):
    """The query parameters of a request."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(3, ge=1, le=1000, description="Number of classes per image")
    routing: bool = Field(False, description="Include the routing weights of each block")


class Ranked(_Schema):
    """A class and its probability."""

    class_: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class ImageAnswer(Ranked):
    """One image: its most probable class, and its `top` classes."""

    top: list[Ranked]
    routing: list[list[float]] | None = None
    """The routing weights of each block, [blocks][experts], if they were requested."""


class PredictAnswer(_Schema):
    """The images in the order in which they were sent."""

    images: list[ImageAnswer]


class LimitsAnswer(_Schema):
    """The limits of a request."""

    body: int
    """Bytes."""
    images: int
    pixels: int
    """In each image."""


class ModelAnswer(_Schema):
    """The network being served."""

    name: str
    version: str
    """Of dynconv."""
    data: str
    """The data set on which it was trained."""
    classes: list[str]
    blocks: int
    experts: int
    """K, in each block."""
    class_routing: list[list[list[float | None]]]
    """The mean routing weights of each class, [blocks][classes][experts]; empty if they are not known."""
    samples: list[str]
    """Classes for which GET /samples/{class}.png returns a drawing."""
    limits: LimitsAnswer


class StateAnswer(_Schema):
    """Whether the server is alive, or ready."""

    status: str


class ErrorAnswer(_Schema):
    """One line: what is wrong, where, and what to do."""

    error: str


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Body cut off, form not readable, or too many files"},
    401: {"model": ErrorAnswer, "description": "The key is missing or wrong"},
    408: {"model": ErrorAnswer, "description": "The body took too long to arrive"},
    413: {"model": ErrorAnswer, "description": "Too many bytes"},
    415: {"model": ErrorAnswer, "description": "Neither an image nor a form"},
    422: {"model": ErrorAnswer, "description": "No image, a damaged image, too many pixels, or a wrong parameter"},
    429: {
        "model": ErrorAnswer,
        "description": "Too many requests of this client are still arriving",
        "headers": _RETRY_AFTER,
    },
    503: {"model": ErrorAnswer, "description": "The queue is full", "headers": _RETRY_AFTER},
}
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
            for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
        },
    },
}
