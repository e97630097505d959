"""The content of the files in a run directory, one model per kind of record. All readers of runs use these models.

Training writes the files. They may hold more fields than these models name: fields of later versions pass through.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynconv.errors import DynconvError
from dynconv.machine import RequestedPrecision
from dynconv.model.config import ModelConfig
from dynconv.model.routing_statistics import BlockRouting

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Record(BaseModel):
    """A record whose numbers must be finite, and in which text is not accepted as a number."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="allow")

    def tree(self) -> dict[str, Any]:
        """The record as plain values for JSON and YAML, including all extra fields of the file."""
        return self.model_dump(mode="json")


class Config(Record):
    """config.yaml: the hyper-parameters. The fields here are those that readers use; `tree` returns all of them."""

    model_config = ConfigDict(frozen=True, strict=False, allow_inf_nan=False, extra="allow")

    preset: str = "custom"
    seed: Count
    epochs: Annotated[int, Field(ge=1, le=2**53)]
    image_sizes: tuple[Count, ...]
    holdout: Count = 0
    tta: bool
    precision: RequestedPrecision = "auto"
    model: ModelConfig


class Environment(Record):
    """environment.json: what a run depends on besides its hyper-parameters.

    Attributes:
        data: name of the data set.
        data_source: where the data set came from, as a value for `--data`; a path is absolute.
        data_checksums: of its `labels` and `pixels`, see `dynconv.data.checksum`; none in runs of earlier versions.
        device: the device as requested; the summary has the device that was used.
    """

    data: str
    data_source: str | None = None
    data_checksums: dict[str, str] = {}
    device: str = "auto"
    compile: bool = False
    deterministic: bool = False
    log: list[str] = []
    started: str = ""
    command: str | None = None
    python: str = ""
    packages: dict[str, str] = {}
    system: str = ""
    processor: str = ""
    instruction_sets: list[str] = []
    cores: Count | None = None
    threads: Count | None = None
    gpus: list[str] = []
    git_commit: str | None = None


class Summary(Record):
    """summary.json: the final figures.

    Accuracies are fractions. `train_seconds` covers only training steps, `total_seconds` everything.

    Attributes:
        selected_by, selected_epoch: by what the epoch was chosen whose weights were kept; None for the last weights.
    """

    preset: str
    data: str
    seed: Count
    epochs: Count
    epochs_planned: Count
    finished: bool
    stopped_by: str | None
    selected_by: str | None = None
    selected_epoch: Count | None = None
    test_accuracy: Share
    test_accuracy_tta: Share | None
    test_loss: float
    train_accuracy: Share | None
    validation_accuracy: Share | None
    train_seconds: float
    total_seconds: float
    parameters: Count
    multiply_adds: Count
    device: str = ""
    precision: str
    peak_memory_bytes: Count | None = None
    version: str = ""
    command: str = ""

    @property
    def best_accuracy(self) -> float:
        """The test accuracy, with test-time augmentation if the run reports it."""
        return self.test_accuracy if self.test_accuracy_tta is None else self.test_accuracy_tta


class Line(Record):
    """The common fields of all lines of metrics.jsonl. `step` counts the optimizer's steps so far."""

    kind: str
    step: Count
    data: str = ""


class StepLine(Line):
    """Written after a step. `epoch` is a fraction; `seconds` is the training time so far."""

    kind: Literal["step"] = "step"
    epoch: float
    loss: float
    lr: dict[str, float]
    image_size: Count
    images_per_second: float
    seconds: float


class EpochLine(Line):
    """Written after an epoch. Training figures are measured on the augmented training batches."""

    kind: Literal["epoch"] = "epoch"
    epoch: Count
    train_loss: float
    train_accuracy: Share
    test_loss: float
    test_accuracy: Share
    validation_loss: float | None = None
    validation_accuracy: Share | None = None
    lr: dict[str, float]
    image_size: Count
    seconds: float
    images_per_second: float = 0.0
    routing: list[BlockRouting]


class WarningLine(Line):
    """A warning for readers of the run."""

    kind: Literal["warning"] = "warning"
    text: str


LINES: dict[str, type[Line]] = {"step": StepLine, "epoch": EpochLine, "warning": WarningLine}
"""The model of each kind of line. Lines of unknown kinds, from a later version, are skipped."""

AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(model: type[AnyRecord], content: Any, where: str, advice: str = "") -> AnyRecord:
    """`content` as a record. Raises DynconvError with `where`, the first problem, and `advice`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DynconvError(f"{where} ({field + ': ' if field else ''}{first['msg']}){advice}") from error
