"""Hyper-parameters and launch arguments: a preset, overridden by a YAML file, overridden by the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import AfterValidator
from tyro.conf import Positional

from dynconv.artifacts import format_1, yaml_file
from dynconv.artifacts.rundir import RunDir
from dynconv.cli.parse import Arguments, asks_for_help, read_words, refuse_unknown
from dynconv.errors import DynconvError
from dynconv.training.config import TrainConfig
from dynconv.training.initial import with_initial_model
from dynconv.training.launch import Launch, config_of
from dynconv.training.presets import PRESETS, override
from dynconv.training.seeds import seed_numbers
from dynconv.validation import field_names, flat, validate

DEFAULT_PRESET = "quick"

SHORT = frozenset({
    "preset", "config", "resume", "time", "seeds", "report", "data", "run", "device", "epochs", "seed", "holdout",
    "experts", "widths", "gate", "lr", "init",
})  # fmt: skip
"""The options that --help shows, by the last part of their names."""


def seconds_of(text: str | None) -> float:
    """A duration as people write it, 90s, 30m or 1.5h; 0 for none. Raises ValueError."""
    if text is None:
        return 0.0
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    if text[-1:] not in units or not re.fullmatch(r"\d+(\.\d+)?", text[:-1]) or float(text[:-1]) == 0:
        raise ValueError("must be a time such as 90s, 30m or 1.5h")
    return float(text[:-1]) * units[text[-1]]


def _checked(read: Callable[[str | None], object]) -> AfterValidator:
    """Keeps a text that `read` understands."""

    def check(text: str | None) -> str | None:
        read(text)
        return text

    return AfterValidator(check)


class DescribeArguments(Arguments):
    """You can set every hyper-parameter; most matter only to `train`."""

    preset: Annotated[Positional[str | None], tyro.conf.arg(metavar="[PRESET]")] = None
    """Recipe to start from: one that `dynconv presets` lists. Default: quick."""
    config: Path | None = None
    """YAML file with fields to set; it overrides the preset, and the command line overrides it."""
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()


class TrainArguments(DescribeArguments):
    """The run's path is the last line on standard output. Defaults are those of the preset."""

    resume: Path | None = None
    """Run to continue where it stopped, with its own hyper-parameters; you may add only --data, --device,
    --compile, --deterministic, --checkpoint-minutes, --log and --no-report."""
    time: Annotated[str | None, _checked(seconds_of)] = None
    """How long a run may take, as 90s, 30m or 2h: as many epochs as fit, by a short measurement on this machine."""
    seeds: Annotated[str | None, _checked(seed_numbers)] = None
    """Several runs in turn, as 0-4 or 0,3,7: FOLDER/seed0 and so on, with --run FOLDER (default: runs/PRESET-DATA). The
    same command skips those that have finished, and continues the others; in the end they are compared."""
    report: bool = True
    """Write the HTML report when the run has ended; `dynconv report RUN` does it later."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch()


Training = TypeVar("Training", bound=DescribeArguments)


def parse_training(model: type[Training], words: Sequence[str], verb: str) -> Training:
    """The arguments: `settings` and `launch` come from the preset, then the file, then the command line.

    With --resume, both come from the run, and only the launch can be changed.

    Raises:
        DynconvError: an unknown option, a value that its field does not accept, or no such preset, file or run.
    """
    # Read preset, file and run first: they give the defaults that the command line and its help start from.
    first, _ = read_words(model, [word for word in words if not asks_for_help([word])], verb)
    resumed = first.get("resume")
    init = first["settings"]["init"]
    base, launch = _of_run(Path(resumed)) if resumed else load_config(first["preset"], first["config"], init)
    defaults = {"settings": base} | ({"launch": launch} if "launch" in model.model_fields else {})
    tree, unknown = read_words(model, words, verb, SHORT, **defaults)
    refuse_unknown(unknown, model)
    config = validate(TrainConfig, {**tree["settings"], "preset": base.preset})
    if "launch" in tree:
        tree["launch"] = validate(Launch, {name: value for name, value in tree["launch"].items() if value is not None})
    given = chosen_fields(words, None)
    if tree.get("time") and (resumed or "epochs" in given or tree.get("seeds")):
        raise DynconvError("--time goes with none of --epochs, --seeds and --resume")
    if tree.get("seeds") and (resumed or "seed" in given):
        raise DynconvError("--seeds goes with neither --seed nor --resume; the same command continues")
    if resumed and (first["preset"] or first["config"] or config != base or tree["launch"].run):
        raise DynconvError(
            "--resume takes its hyper-parameters from the run; you may add only --data, --device, "
            "--compile, --deterministic, --checkpoint-minutes, --log and --no-report"
        )
    return validate(model, {**tree, "settings": config})


def chosen_fields(words: Sequence[str], file: Path | None) -> frozenset[str]:
    """The dotted names of the hyper-parameters that the words or the file set, even to what they would be anyway."""
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    named = flat(read_yaml(file)) if file else {}
    return frozenset(name for name in (*flags, *named) if name in field_names(TrainConfig))


def _of_run(path: Path) -> tuple[TrainConfig, Launch]:
    run = RunDir.open(path)
    about = run.environment
    launch: dict[str, Any] = {"data": about.data_source or about.data, "device": about.device, "compile": about.compile}
    launch |= {"deterministic": about.deterministic, "log": about.log}
    return config_of(run), validate(Launch, launch, f"{path / 'environment.json'}: ")


def load_config(preset: str | None, file: str | Path | None = None, init: str = "") -> tuple[TrainConfig, Launch]:
    """A preset, with the network of the weights `init` if any, overridden by a YAML file; and its launch arguments.

    The file may name the preset; the default is `quick`. The config.yaml of a run of any format is such a file.

    Raises:
        DynconvError: no such preset, no such file, or a field in it that does not exist or has a wrong value.
    """
    fields = {} if file is None else read_yaml(Path(file))
    where = f"{file}: " if file else ""
    fields.pop("format", None)
    fields, launch = format_1.config(fields)
    name = str(preset or fields.get("preset") or DEFAULT_PRESET)
    if name not in (*PRESETS, "custom"):
        raise DynconvError(f"{'' if preset else where}no preset {name!r}; choose one of {', '.join(PRESETS)}")
    base = PRESETS[name]() if name in PRESETS else TrainConfig()
    base = with_initial_model(base, init or str(fields.get("init") or ""))
    asked = {name: value for name, value in launch.items() if value is not None}
    return override(base, {**fields, "preset": name}, where), validate(Launch, asked, where)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a file; none if it is empty. Raises DynconvError if it cannot be read or holds no fields."""
    try:
        return yaml_file.read(path)
    except OSError as error:
        raise DynconvError(f"{path}: cannot be read ({error.strerror})") from error
