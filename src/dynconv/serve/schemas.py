"""The answers of the API, as OpenAPI shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(populate_by_name=True, use_attribute_docstrings=True)


class PredictParameters(BaseModel):
    """What stands behind the ? of a request."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(3, ge=1, le=1000, description="Classes of each image")
    routing: bool = Field(False, description="Give the routing weights of each block")


class Ranked(_Schema):
    """A class and its probability."""

    class_: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class ImageAnswer(Ranked):
    """Of one image: the most probable class, and the first of all classes, as many as were asked for."""

    top: list[Ranked]
    routing: list[list[float]] | None = None
    """The routing weights of each block, [blocks][experts], where they were asked for."""


class PredictAnswer(_Schema):
    """In the order in which the images were sent."""

    images: list[ImageAnswer]


class LimitsAnswer(_Schema):
    """What a request may hold."""

    body: int
    """Bytes."""
    images: int
    pixels: int
    """Of an image."""


class ModelAnswer(_Schema):
    """The network that is served."""

    name: str
    version: str
    """Of dynconv."""
    data: str
    """The data set that it was trained on."""
    classes: list[str]
    blocks: int
    experts: int
    """K, of each block."""
    class_routing: list[list[list[float | None]]]
    """The mean routing weights of each class, [blocks][classes][experts]; empty where they are not known."""
    samples: list[str]
    """Classes of which GET /samples/{class}.png gives a drawing."""
    limits: LimitsAnswer


class StateAnswer(_Schema):
    """Whether the server lives, or is ready."""

    status: str


class ErrorAnswer(_Schema):
    """One line: what is wrong, where, and what to do."""

    error: str


PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Cut off, no form, or too many files"},
    401: {"model": ErrorAnswer, "description": "The key is missing or wrong"},
    408: {"model": ErrorAnswer, "description": "The body took too long to arrive"},
    413: {"model": ErrorAnswer, "description": "Too many bytes"},
    415: {"model": ErrorAnswer, "description": "Neither image/* nor a form"},
    422: {"model": ErrorAnswer, "description": "No image, damaged or too many pixels; or a wrong parameter"},
    503: {
        "model": ErrorAnswer,
        "description": "Too much to do",
        "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}},
    },
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
