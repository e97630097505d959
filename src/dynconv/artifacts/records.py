"""What the files of a run directory have to hold, so that whatever reads them can rely on it."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynconv.errors import DynconvError

Share = Annotated[float, Field(ge=0, le=1)]


class _Content(BaseModel):
    """What a file has to hold; it may hold more. Numbers are finite, and text is no number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class Summary(_Content):
    """summary.json, see docs/run-directory.md."""

    preset: str
    data: str
    seed: int
    epochs: int
    epochs_planned: int
    finished: bool
    stopped_by: str | None
    test_accuracy: Share
    test_accuracy_tta: Share | None
    test_loss: float
    train_accuracy: Share | None
    validation_accuracy: Share | None
    train_seconds: float
    total_seconds: float
    parameters: int
    multiply_adds: int
    precision: str


class Environment(_Content):
    """environment.json; what another version did not write is left out."""

    data: str
    command: str | None = None
    processor: str = ""
    threads: int | None = None
    gpus: list[str] = []
    packages: dict[str, str] = {}
    fixed: dict[str, dict[str, float]] = {}


class Line(_Content):
    """What every line of metrics.jsonl has."""

    kind: str
    step: int


class WarningLine(Line):
    """A line of the kind `warning`."""

    text: str


class BlockRouting(_Content):
    """The routing of one block over some test images, see `loop.routing_statistics`."""

    block: int
    mean: list[float]
    entropy: float
    std: float


class EpochLine(Line):
    """A line of the kind `epoch`."""

    epoch: int
    seconds: float
    train_loss: float
    train_accuracy: Share
    test_loss: float
    test_accuracy: Share
    validation_loss: float = 0.0
    validation_accuracy: Share = 0.0
    lr: dict[str, float]
    image_size: int
    routing: list[BlockRouting]


Model = TypeVar("Model", bound=_Content)


def checked(model: type[Model], content: Any, where: str, then: str = "") -> dict[str, Any]:
    """`content`, where it is what `model` says. Raises DynconvError: `where`, the first thing that is wrong, `then`."""
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DynconvError(f"{where} ({field + ': ' if field else ''}{first['msg']}){then}") from error
    found: dict[str, Any] = content
    return found
