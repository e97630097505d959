"""The run directory: its files, their schema, who writes them. It is all that anything after training needs.

config.yaml          every hyper-parameter (RunConfig)
environment.json     versions, processor, threads, git commit, command line, the recipe's fixed numbers
metrics.jsonl        one JSON object a line: {"kind": "step" | "epoch" | "warning", "data": ..., ...}
weights.safetensors  the final weights, with configuration and class names (checkpoint.py)
state.pt             everything to resume from, after each epoch (checkpoint.py)
predictions.npz      labels [N], probabilities float32 [N, classes], classes, data: of the test set
summary.json         final figures; written last, so its presence says that the run has ended
tensorboard/         event files
report/              the page about the run and its plots (using/report)
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from dynconv.artifacts.files import write_atomically
from dynconv.artifacts.records import Environment, EpochLine, Line, Summary, WarningLine, checked
from dynconv.config import FIXED, RunConfig
from dynconv.errors import DynconvError
from dynconv.machine import instruction_sets


@dataclass(frozen=True)
class Predictions:
    """Of the N test images: labels int64 [N], probabilities float32 [N, classes], class names, data set's name."""

    labels: Tensor
    probabilities: Tensor
    classes: tuple[str, ...]
    data_name: str


class RunDir:
    """One run's directory. Made by `create` or `open`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.weights = path / "weights.safetensors"
        self.state = path / "state.pt"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, config: RunConfig, data_name: str) -> RunDir:
        """Makes the directory `config.run`, by default runs/<time>-<preset>-<data>-seed<seed>.

        Raises:
            DynconvError: it exists and is not empty, or cannot be made. A run is never overwritten.
        """
        path = config.run or Path("runs")
        try:
            if config.run is None:
                path = _make_fresh(path, f"{config.preset}-{data_name}-seed{config.seed}")
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise DynconvError(
                    f"{path}: exists and is not empty; choose another --run, or go on with --resume {path}"
                )
        except OSError as error:
            raise DynconvError(f"{path}: cannot be made ({error.strerror}); choose another --run") from error
        run = cls(path, config)
        text = f"# data: {data_name}\n" + yaml.safe_dump(
            config.model_dump(mode="json", exclude={"run"}), sort_keys=False
        )
        run._write_text("config.yaml", text)
        run._write_text("environment.json", json.dumps(environment(data_name), indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Raises DynconvError where `path` is no run directory or its configuration is damaged."""
        file = path / "config.yaml"
        try:
            return cls(
                path, RunConfig.model_validate(yaml.safe_load(file.read_text())).model_copy(update={"run": path})
            )
        except OSError as error:
            raise DynconvError(
                f"{path}: is no run directory (no readable config.yaml); `dynconv runs` lists runs"
            ) from error
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            raise DynconvError(f"{file}: damaged, or of another version ({str(error).splitlines()[0]})") from error

    @classmethod
    def reopen(cls, path: Path) -> RunDir:
        """Opens a run to go on with it. Raises DynconvError also where it has finished."""
        run = cls.open(path)
        if (run.summary() or {}).get("finished"):
            raise DynconvError(
                f"{path}: this run has finished, there is nothing to resume; `dynconv train` starts another"
            )
        return run

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl. Raises DynconvError where the disk is full."""
        file = self.path / "metrics.jsonl"
        try:
            with file.open("a") as stream:
                stream.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise cannot_go_on(file, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a last line that was cut off is left out.

        Of the kind `epoch` they can be of another version: `damage_of_epoch` says whether one is whole.

        Raises:
            DynconvError: the file cannot be read, or a line of it is damaged.
        """
        file = self.path / "metrics.jsonl"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise DynconvError(f"{file}: damaged, or cannot be read ({_reason(error)})") from error
        records: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):
                    break
                raise DynconvError(f"{file}: line {number} is damaged") from error
            is_warning = isinstance(record, dict) and record.get("kind") == "warning"
            records.append(checked(WarningLine if is_warning else Line, record, f"{file}: line {number} is damaged"))
        return records

    def rewind(self, step: int) -> None:
        """Drops what a resumed run makes again: the records of steps after `step`, and the summary."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        self._write_text("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
        (self.path / "summary.json").unlink(missing_ok=True)

    def environment(self) -> dict[str, Any]:
        """environment.json. Raises DynconvError where it is missing or damaged."""
        file = self.path / "environment.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DynconvError(f"{file}: missing or damaged") from error
        return checked(Environment, found, f"{file}: damaged")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, adding the version and the command."""
        whole = summary | {"version": version("dynconv"), "command": command_line()}
        self._write_text("summary.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None where the run has not ended.

        Raises:
            DynconvError: it is damaged.
        """
        file = self.path / "summary.json"
        anew = f"`dynconv evaluate {self.path}` measures the accuracy anew"
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DynconvError(f"{file}: damaged; {anew}") from error
        return checked(Summary, summary, f"{file}: damaged", f"; {anew}")

    def write_predictions(
        self, data_name: str, labels_N: Tensor, probabilities_NK: Tensor, classes: tuple[str, ...]
    ) -> None:
        """Writes predictions.npz."""

        def write(file: Path) -> None:
            with file.open("wb") as stream:
                np.savez_compressed(
                    stream,
                    labels=labels_N.numpy(),
                    probabilities=probabilities_NK.numpy().astype(np.float32),
                    classes=np.array(classes),
                    data=np.array(data_name),
                )

        write_atomically(self.path / "predictions.npz", write)

    def predictions(self) -> Predictions:
        """predictions.npz. Raises DynconvError where it is missing or damaged."""
        file = self.path / "predictions.npz"
        try:
            # Opened here: np.load leaves the file that it opened itself open when it is damaged.
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                whole_numbers = arrays["labels"].dtype.kind in "iu"
                labels = torch.from_numpy(arrays["labels"].astype(np.int64))
                probabilities = torch.from_numpy(arrays["probabilities"].astype(np.float32))
                classes, data_name = tuple(map(str, arrays["classes"])), str(arrays["data"])
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DynconvError(f"{file}: missing or damaged; `dynconv evaluate {self.path}` predicts anew") from error
        whole = labels.dim() == 1 and len(labels) > 0 and probabilities.shape == (len(labels), len(classes))
        if not whole or int(labels.min()) < 0 or int(labels.max()) >= len(classes):
            raise DynconvError(f"{file}: labels, probabilities and classes do not fit together")
        if not whole_numbers or not probabilities.isfinite().all():
            raise DynconvError(f"{file}: damaged: labels have to be whole numbers, probabilities finite")
        return Predictions(labels, probabilities, classes, data_name)

    def _write_text(self, name: str, text: str) -> None:
        def write(file: Path) -> None:
            file.write_text(text)

        write_atomically(self.path / name, write)


def damage_of_epoch(record: dict[str, Any]) -> str | None:
    """What is wrong with a record of the kind `epoch`, in words; None where it is whole."""
    try:
        checked(EpochLine, record, "")
    except DynconvError as error:
        return str(error).strip()
    return None


def cannot_go_on(file: Path, error: OSError) -> DynconvError:
    """The line that ends a training whose record cannot be written."""
    return DynconvError(
        f"{file}: cannot be written ({_reason(error)}); free some space, then go on with --resume {file.parent}"
    )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else error.reason) or str(error)


def _make_fresh(folder: Path, name: str) -> Path:
    """Makes folder/<time>-<name>, or one with a number where another process has just made that."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    path, suffix = folder / f"{stamp}-{name}", 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            suffix += 1
            path = folder / f"{stamp}-{name}-{suffix}"
        else:
            return path


def command_line() -> str:
    """The command that runs now, with the program's bare name."""
    program = Path(sys.argv[0]).name
    return shlex.join(["dynconv" if program == "__main__.py" else program, *sys.argv[1:]])


def environment(data_name: str) -> dict[str, Any]:
    """What a run depends on besides its configuration."""
    packages = ("dynconv", "torch", "numpy", "lightning-fabric")
    return {
        "data": data_name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "instruction_sets": sorted(
            instruction_sets() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": _git_commit(),
        "fixed": FIXED,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git_commit() -> str | None:
    """The commit of the checkout that this code lies in, with "-dirty" where it has changes; None elsewhere."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None and git("ls-files", str(here)) in (None, ""):
        return None  # installed into some other project's checkout
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
