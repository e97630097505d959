"""What matters about this machine and its data, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import dynconv
from dynconv.data import find
from dynconv.errors import DynconvError
from dynconv.layer.ops import fused, winograd
from dynconv.machine import instruction_sets, pick_device, pick_precision

MATTERING = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "asimd", "sve")
MEMORY_NEEDED = 6 * 2**30
DISK_NEEDED = 2**30  # the data, unpacked and as an archive, and some runs


@dataclass(frozen=True)
class Finding:
    """One thing found: `state` is ok, or "look" where `advice` says what to do."""

    name: str
    found: str
    state: Literal["ok", "look"] = "ok"
    advice: str = ""


def examine() -> list[Finding]:
    """Looks at processor, memory, software, data and disk; changes nothing but the build cache."""
    return [*_machine(), *_software(), *_computing(), _data(), _disk()]


def report(findings: list[Finding]) -> RenderableType:
    """The findings as a table, then the advice."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        mark = Text(finding.state, style={"ok": "green", "look": "yellow"}[finding.state])
        table.add_row(mark, finding.name, Text(finding.found))
    todo = [Text(f"- {finding.name}: {finding.advice}") for finding in findings if finding.advice]
    return Group(table, "", *(["What to do:", *todo] if todo else ["Nothing to do: dynconv train quick"]))


def _machine() -> list[Finding]:
    flags = instruction_sets()
    known = [flag for flag in MATTERING if flag in flags]
    fast = not flags or {"avx2", "asimd"} & flags
    cores, threads = _cores(), torch.get_num_threads()
    findings = [
        Finding("processor", _processor()),
        Finding("instruction sets", ", ".join(known) or "not known")
        if fast
        else Finding("instruction sets", ", ".join(known), "look", "without AVX2 expect hours; use a GPU"),
        Finding("cores", f"{cores} usable, {threads} used by torch")
        if threads <= cores
        else Finding(
            "cores",
            f"{cores} usable, but {threads} threads in torch",
            "look",
            f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other down",
        ),
    ]
    memory = _memory()
    if memory is not None:
        enough = memory >= MEMORY_NEEDED
        advice = "" if enough else "training takes up to 6 GiB; reduce --micro-batch, or close something"
        findings.append(Finding("memory", f"{_gib(memory)} available", "ok" if enough else "look", advice))
    return findings


def _software() -> list[Finding]:
    return [
        Finding("dynconv", dynconv.__version__),
        Finding("python", f"{platform.python_version()}, {sys.executable}"),
        Finding("torch", torch.__version__),
    ]


def _computing() -> list[Finding]:
    device = pick_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision, why = pick_precision("auto", device)
    advice = "training works without it, slower on a CPU; install a C++ compiler: apt install g++"
    return [
        Finding("device", f"{name} (what --device auto takes)"),
        Finding("precision", f"{precision} (what --precision auto takes): {why}"),
        *(_operator(name, operator.status(), advice) for name, operator in (("fused", fused), ("winograd", winograd))),
    ]


def _operator(name: str, status: str, advice: str) -> Finding:
    built = status.startswith("available")
    return Finding(f"{name} operator", status, "ok" if built else "look", "" if built else advice)


def _data() -> Finding:
    """Looks where `--data cifar10` looks, and reads what is there; downloads nothing."""
    named = os.environ.get(find.VARIABLE)
    advice = "dynconv train downloads it (170 MB); or give --data PATH, or --data shapes for generated images"
    try:
        places = [find.expand(named)] if named else [Path("data"), find.cache_folder()]
        for place in places:
            if named or find._form_of(place):
                dataset = find.read(place)
                counts = f"{len(dataset.train.labels)} + {len(dataset.test.labels)} images"
                found = f"{dataset.name}: {dataset.origin}, {counts}"
                if dataset.name == "cifar10":
                    return Finding("data", found)
                return Finding("data", found, "look", f"this is not CIFAR-10: to train on it, --data {dataset.origin}")
    except DynconvError as error:
        source = f"{find.VARIABLE} names it; " if named else ""
        return Finding("data", str(error), "look", f"{source}put it right, or remove it: it is not passed over")
    return Finding("data", f"CIFAR-10 is not in {' or '.join(map(str, places))}", "look", advice)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= DISK_NEEDED
    advice = "" if enough else "the data take 0.4 GiB and a run about 0.1; make room or use another disk"
    return Finding("free disk, here", _gib(free), "ok" if enough else "look", advice)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    """Bytes available to a new program; None where it cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
