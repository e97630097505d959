"""Compiles the operators into a wheel for Linux, where DYNCONV_PREBUILD=1 asks for it: see `make dist-prebuilt`.

CXX names the compiler, g++ by default. Without the variable a wheel holds sources alone, and suits every machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OPERATORS = Path("src/dynconv/layer/ops")


class PrebuildHook(BuildHookInterface[Any]):
    """Adds a library of each operator for each target of this machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is written."""
        if version == "editable" or os.environ.get("DYNCONV_PREBUILD") != "1":
            return
        operators, machine = Path(self.root) / OPERATORS, platform.machine()
        targets = _targets(operators / "targets.py")
        if not sys.platform.startswith("linux") or machine not in targets.TARGETS:
            sys.exit(f"DYNCONV_PREBUILD: is for Linux on {', '.join(targets.TARGETS)}, not for {machine}; unset it")
        try:
            compiler = shlex.split(os.environ.get("CXX") or "g++")
        except ValueError as error:
            sys.exit(f"DYNCONV_PREBUILD: CXX is not a command: {error}")
        self._folder = tempfile.TemporaryDirectory(prefix="dynconv-")
        for source in sorted(operators.glob("*.cpp")):
            for target in targets.TARGETS[machine]:
                name = targets.file_name(source, target)
                library = Path(self._folder.name) / name
                self.app.display_info(f"compiling {name}")
                try:
                    subprocess.run([*compiler, *targets.FLAGS, *target.flags, source, "-s", "-o", library], check=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    sys.exit(f"DYNCONV_PREBUILD: needs g++ 11 or newer, or one that CXX names ({error})")
                build_data["force_include"][str(library)] = f"dynconv/layer/ops/prebuilt/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called once it is written."""
        if folder := getattr(self, "_folder", None):
            folder.cleanup()


def _targets(path: Path) -> ModuleType:
    """The module, without its package, which imports torch."""
    spec = importlib.util.spec_from_file_location("targets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["targets"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
