"""Records what a run depends on besides its hyper-parameters: the machine, the software, the command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dynconv.artifacts.commit import git_commit
from dynconv.artifacts.records import Environment
from dynconv.machine import instruction_sets, processor

_PACKAGES = ("dynconv", "torch", "numpy")
_MATTERING = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}


def environment(data_name: str, **launch: Any) -> Environment:
    """The environment of this process.

    Args:
        launch: the fields data_source, data_checksums, device, compile, deterministic and log of `Environment`.
    """
    return Environment(
        data=data_name,
        **launch,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
        system=platform.platform(),
        processor=processor(),
        instruction_sets=sorted(instruction_sets() & _MATTERING),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        git_commit=git_commit(),
    )


def command_line() -> str:
    """The command line of this process, with the bare name of the program and without the passwords in its URLs."""
    program = Path(sys.argv[0]).name
    words = [re.sub(r"(\w://[^/\s:@]*):[^/\s]*@", r"\1:***@", word) for word in sys.argv[1:]]
    return shlex.join(["dynconv" if program == "__main__.py" else program, *words])
