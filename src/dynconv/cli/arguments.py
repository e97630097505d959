"""The command line as typed values: the words after a verb -> a pydantic model, or one line why not.

tyro splits the words and writes `--help`; pydantic alone converts and judges the values, so that a value from
the command line and one from a YAML file are answered in the same words. Imports no torch.
"""

from __future__ import annotations

import contextlib
import io
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tyro.conf import Positional
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from dynconv.config import RunConfig
from dynconv.errors import DynconvError
from dynconv.training.presets import PRESETS
from dynconv.validation import did_you_mean, field_names, validate

DEFAULT_PRESET = "quick"
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{true,false}"}

Model = TypeVar("Model", bound=BaseModel)


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class DescribeArguments(_Arguments):
    """Print the network as a table. Every field of a run can be set, most matter only to `train`."""

    preset: Annotated[Positional[str | None], tyro.conf.arg(metavar="[PRESET]")] = None
    """Named configuration to start from: one of those that `dynconv presets` lists. Default: quick."""
    config: Path | None = None
    """YAML file with fields to set; applied over the preset, under the command line."""
    settings: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()


class TrainArguments(DescribeArguments):
    """Train a network and write a run directory, whose path is the last line on standard output.

    --data X is short for --data.source X. Defaults are those of the preset.
    """

    resume: Path | None = None
    """Run to continue where it stopped, with its own settings; only --data may be given besides."""


Training = TypeVar("Training", bound=DescribeArguments)


class EvaluateArguments(_Arguments):
    """Measure a trained network: accuracy and loss, per class, and which class is taken for which."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory or weights file."""
    data: str | None = None
    """cifar10, shapes, auto or a path. Default: the data that it was trained on."""
    split: Literal["test", "train", "validation"] = "test"
    """Which images. validation: those that the run held out."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as JSON."""


class ReportArguments(_Arguments):
    """Write one self-contained page about a run, or about several side by side, and its plots as PNG and SVG."""

    runs: Annotated[Positional[tuple[Path, ...]], Field(min_length=1), tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories."""
    output: Path | None = None
    """Folder for the page and the plots. Default: report/ in the run, or beside the runs where there are several."""
    data: str | None = None
    """Of one run: cifar10, shapes, auto or a path. Default: the data that it was trained on."""


class PredictArguments(_Arguments):
    """Classify images. Exit code 1 where some of them could not be read; the others are classified all the same.

    Prints a table, or with --json a line for each image as it is done.
    """

    images: Annotated[Positional[tuple[str, ...]], Field(min_length=1), tyro.conf.arg(metavar="IMAGE|FOLDER|- ...")]
    """Image files; folders, searched for PNG, JPEG and WebP files; - for an image on standard input."""
    model: Path = Path("standard")
    """Run directory, weights file, or standard: the weights that come with the package, trained on CIFAR-10."""
    top: Annotated[int, Field(ge=1)] = 3
    """Classes shown of each image."""
    tta: bool = False
    """Average over six views of each image: more accurate, six times as slow."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object a line: image, and class, probability, top; or error."""
    csv: bool = False
    """Print comma-separated values: image, class, probability, and so on for --top classes."""
    copy_to: Path | None = None
    """Folder to copy each image into, under a folder with the name of its class. Nothing there is overwritten."""

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if self.json_ and self.csv:
            raise ValueError("json: choose one of --json and --csv")
        return self


class ExportArguments(_Arguments):
    """Write a trained network for other runtimes, preprocessing inside: uint8 images in, logits and probabilities out.

    Before it is kept, the file is compared with the network on real images. Any number of images at once.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory, weights file, or standard: the weights that come with the package."""
    format: Literal["onnx", "pt2"] = "onnx"
    """onnx: for onnxruntime and others. pt2: for torch.export.load."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Axes of the images: [N, H, W, 3], as image libraries give them, or [N, 3, H, W]."""
    int8: bool = False
    """Quantise the convolutions, on 512 training images; measures the accuracy before and after. Of onnx."""
    output: Path | None = None
    """File to write. Default: model.onnx (model-int8.onnx, model.pt2) in the run; of weights, their name, here."""
    data: str | None = None
    """Images to check on: cifar10, shapes, auto or a path. Default: the data that it was trained on."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> Self:
        if self.int8 and self.format != "onnx":
            raise ValueError("int8: needs --format onnx")
        return self


class ExplainArguments(_Arguments):
    """Show what the routing does with images: prediction, each block's routing weights, and which pixels counted."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory or weights file."""
    images: Annotated[Positional[tuple[Path, ...]], Field(min_length=1), tyro.conf.arg(metavar="IMAGE ...")]
    """PNG, JPEG or WebP files."""
    output: Path = Path()
    """Folder for a picture of each explanation, <image>-explained.png; what is there already stays."""
    data: str | None = None
    """Where the class means come from. Default: the data that it was trained on."""


class ServeArguments(_Arguments):
    """Serve a trained network over HTTP: a page at /, an interface for programs, described at /docs.

    The environment variable DYNCONV_API_KEY sets a key that clients must send. Ctrl-C finishes what was accepted.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="[RUN]")] = Path("standard")
    """Run directory, weights file, or standard: the weights that come with the package, trained on CIFAR-10."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is reached from this machine only, 0.0.0.0 from everywhere."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen at; 0 for any that is free."""
    data: str | None = None
    """Where the class means of the routing come from. Default: the data that it was trained on, where it is to hand."""
    max_batch: Annotated[int, Field(ge=1)] = 64
    """Images that the network computes at once, at most."""
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """How long an image waits for others to join its batch, at most."""
    queue: Annotated[int, Field(ge=1)] = 128
    """Requests under way, at most; more are answered 503."""
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 8.0
    """Size of a request's body, at most."""
    max_images: Annotated[int, Field(ge=1)] = 16
    """Images in a request, at most."""
    max_megapixels: Annotated[float, Field(gt=0, le=89)] = 25.0
    """Size of an image, at most."""
    timeout: Annotated[int, Field(ge=1)] = 30
    """Seconds for a request to arrive, and again for it to be answered."""


class RunsArguments(_Arguments):
    """List runs in a table."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    """Folder that holds the run directories."""


class DoctorArguments(_Arguments):
    """Print what matters about this machine and its data, and what to do about it."""


class BenchArguments(_Arguments):
    """Measure this machine: what a layer, a training step, prediction, other runtimes or a server cost.

    `step` is a training step, `predict` goes from PNG files to classes, `serve` measures requests/s and latency with
    batches and with one image at a time, at 1, 8 and 64 clients.
    `infer` runs a network in torch, as it is and compiled, and in onnxruntime, in float32 and int8.
    `layer` compares every algorithm, a static convolution, a loop over K convolutions and the grouped form of other
    libraries, forward and with gradients, and the memory. Leave the machine alone meanwhile.
    """

    what: Annotated[
        Positional[Literal["layer", "step", "predict", "infer", "serve"]],
        tyro.conf.arg(metavar="{layer,step,predict,infer,serve}"),
    ]
    """What to measure."""
    shapes: tuple[Literal["quick", "standard", "resnet18-32", "resnet18-56", "maps"], ...] = (
        "quick",
        "standard",
        "resnet18-32",
        "resnet18-56",
    )
    """layer: the convolutions of a preset, of ResNet-18 with a first stage of 32x32 or 56x56, or of five map sizes."""
    experts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8)
    """layer, step: numbers of experts."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """layer, step: types of numbers; bfloat16 is autocast's in a step."""
    preset: Literal["quick", "standard"] = "standard"
    """step: the network."""
    model: Path = Path("standard")
    """predict, infer, serve: run directory, weights file, or standard, the weights that come with the package."""
    batch: Annotated[int, Field(ge=1)] = 32
    """layer, step, infer: images. `infer` measures one image, too."""
    rounds: Annotated[int, Field(ge=1)] = 5
    """How often each method takes its turn; the median counts."""
    output: Path | None = None
    """JSON file for the figures; `layer` continues what it holds already and draws a plot beside it."""


class PresetsArguments(_Arguments):
    """List the named configurations."""


def parse(model: type[Model], words: Sequence[str], verb: str) -> Model:
    """The values of `words`; prints help and raises SystemExit(0) where they ask for it.

    Raises:
        DynconvError: an unknown option, or a value that its field does not take.
    """
    tree, unknown = _read(model, words, verb)
    _refuse(unknown, model)
    return validate(model, tree)


def parse_training(model: type[Training], words: Sequence[str], verb: str) -> Training:
    """As `parse`; `settings` are the preset's, then the file's fields, then those of the command line.

    With --resume they are the run's, and only the place of the data can be another.
    """
    words = ["--data.source" + word[6:] if re.match("--data(=|$)", word) else word for word in words]
    # Preset and file come first: they give the defaults that the command line and its help start from.
    first, _ = _read(model, [word for word in words if word not in ("-h", "--help")], verb)
    resumed = first.get("resume")
    base = _config_of_run(Path(resumed)) if resumed else load_config(first["preset"], first["config"])
    tree, unknown = _read(model, words, verb, settings=base)
    _refuse(unknown, model)
    config = validate(RunConfig, {**tree["settings"], "preset": base.preset})
    arguments = validate(model, {**tree, "preset": base.preset, "settings": config})
    if resumed:
        source = {"source": config.data.source}
        allowed = base.model_copy(update={"data": base.data.model_copy(update=source)})
        if first["preset"] or first["config"] or config != allowed:
            raise DynconvError("--resume takes its settings from the run; of the others only --data may be given")
    return arguments


def _config_of_run(run: Path) -> RunConfig:
    file = run / "config.yaml"
    if not file.exists():
        raise DynconvError(f"{run}: is no run that can be resumed, it has no config.yaml")
    return validate(RunConfig, _read_yaml(file), f"{file}: ")


def load_config(preset: str | None, file: str | Path | None = None) -> RunConfig:
    """The configuration of a preset with a YAML file's fields over it.

    The preset may stand in the file; without any it is `quick`.

    Raises:
        DynconvError: no such preset, no such file, or a field in it that does not exist or has a wrong value.
    """
    fields = {} if file is None else _read_yaml(Path(file))
    where = f"{file}: " if file else ""
    name = str(preset or fields.get("preset") or DEFAULT_PRESET)
    if name == "custom":
        base = RunConfig()
    elif name in PRESETS:
        base = PRESETS[name]()
    else:
        source = "" if preset else where
        raise DynconvError(f"{source}no preset {name!r}; there are {', '.join(PRESETS)}")
    tree = _merge(base.model_dump(), {**fields, "preset": name})
    return validate(RunConfig, tree, where)


def _refuse(unknown: list[str], model: type[BaseModel]) -> None:
    if not unknown:
        return
    word = next((word for word in unknown if word.startswith("-")), None)
    if word is None:
        raise DynconvError(f"unexpected argument {unknown[0]!r}")
    names = [name.removeprefix("settings.").replace("_", "-") for name in [*field_names(model), "data"]]
    flags = [f"--{name}" for name in names]
    raise DynconvError(f"no option {word}{did_you_mean(word.partition('=')[0], flags)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DynconvError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise DynconvError(f"{path}: not YAML: line {line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DynconvError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise DynconvError(f"{path}: must hold fields, as in 'epochs: 5', not a {type(fields).__name__}")
    return fields


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, level by level."""
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[name] = _merge(typing.cast(dict[str, Any], inner), value) if both else value
    return merged


# ----------------------------------------------------------------------------------------- the words, by tyro


def _read(model: type[BaseModel], words: Sequence[str], verb: str, **defaults: Any) -> tuple[dict[str, Any], list[str]]:
    """The words as a tree of strings, with the defaults where there are none; the words not understood."""
    said = io.StringIO()
    fields = model.model_fields.items()
    default = {name: field.get_default() for name, field in fields if not field.is_required()}
    try:
        with contextlib.redirect_stderr(said):
            answer: Any = tyro.cli(
                model,
                args=list(words),
                prog=f"dynconv {verb}",
                description=model.__doc__,
                default=default | defaults,
                registry=_registry(),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        # What tyro itself objects to, such as an option without its value: the lines of its box as one.
        lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()[1:]]
        raise DynconvError(" ".join(lines[: lines.index("")] if "" in lines else lines)) from None
    tree, unknown = answer
    required = {name for name, field in fields if field.is_required()}
    return {name: value for name, value in tree.items() if value is not None or name not in required}, unknown


def _registry() -> ConstructorRegistry:
    """Lets tyro pass the words on as they are, for pydantic to judge."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        return None if info.type is bool else _words(info.type)

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
            return None
        hints = typing.get_type_hints(info.type, include_extras=True)
        default = info.default if isinstance(info.default, dict) else dict(info.default)
        fields = []
        for name, field in info.type.model_fields.items():
            if (info.type, name) == (RunConfig, "preset"):  # given by position
                continue
            value, kind = default.get(name), hints[name]
            if value is None:  # no "(default: None)", and pydantic says what is missing
                bare, *marks = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
                kind = Annotated[(bare | None, *marks, tyro.conf.arg(help_behavior_hint=""))]
            fields.append(StructFieldSpec(name, kind, value, " ".join((field.description or "").split())))
        return StructConstructorSpec(_tree, tuple(fields))

    return registry


def _tree(**values: Any) -> dict[str, Any]:
    return values


def _words(kind: Any) -> PrimitiveConstructorSpec[Any] | None:
    several = typing.get_origin(kind) is tuple
    item = typing.get_args(kind)[0] if several else kind
    while typing.get_origin(item) in (Annotated, typing.Union, types.UnionType):  # of int | None: int
        item = typing.get_args(item)[0]
    if typing.get_origin(item) is Literal:
        metavar = "{" + ",".join(map(str, typing.get_args(item))) + "}"
    elif item in _METAVARS:
        metavar = _METAVARS[item]
    else:
        return None
    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=metavar + " ..." if several else metavar,
        instance_from_str=(lambda words: words) if several else (lambda words: words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(part) for part in value] if several else [str(value)],
    )
