"""Records what a run depends on besides its hyper-parameters: the machine, the software, the command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dynconv.artifacts.records import Environment
from dynconv.errors import DynconvError
from dynconv.machine import instruction_sets, processor

_PACKAGES = ("dynconv", "torch", "numpy")
_PACKAGE = Path(__file__).resolve().parents[1]
_MATTERING = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}


def environment(data_name: str, **launch: Any) -> Environment:
    """The environment of this process.

    Args:
        launch: the fields data_source, device, compile and deterministic of `Environment`.
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


def git_commit(*written: Path) -> str | None:
    """The commit of the checkout that holds this code, with "-dirty" if it has changes; None outside a checkout.

    Changes to the files `written` do not count.
    """
    if not _in_checkout():
        return None
    commit = _git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if _changed(*written) else "")


def require_committed(*written: Path) -> None:
    """Refuses a measurement that no commit describes. Does nothing outside a checkout.

    Args:
        written: the files that the measurement itself writes; changes to them do not count.

    Raises:
        DynconvError: the checkout has uncommitted changes.
    """
    if _in_checkout() and (changed := _changed(*written)):
        names = changed[0] + (f" and {len(changed) - 1} more" if changed[1:] else "")
        raise DynconvError(
            f"uncommitted changes ({names}): no commit would describe what is measured; commit them, or add "
            "--allow-uncommitted"
        )


def _changed(*besides: Path) -> list[str]:
    """Tracked files that differ from the commit, as paths relative to the top of the checkout."""
    top = _git("rev-parse", "--show-toplevel") or "."
    outside = [f":(exclude,literal){path.resolve()}" for path in besides if path.resolve().is_relative_to(top)]
    found = _git("-C", top, "status", "--porcelain", "--untracked-files=no", "--", ".", *outside) or ""
    return [line.strip().split(maxsplit=1)[1] for line in found.splitlines()]


def _in_checkout() -> bool:
    """Whether git tracks this package; False also if it is installed inside another project's checkout."""
    return bool(_git("ls-files", str(_PACKAGE)))


def _git(*words: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
