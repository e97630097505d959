"""Checks this machine and its data, and says what to do about problems."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.text import Text

import dynconv
from dynconv import data
from dynconv.data import places
from dynconv.errors import DynconvError
from dynconv.layer.ops import depthwise, fused, norm_gelu, pixel_sum, winograd
from dynconv.machine import (
    available_memory,
    instruction_sets,
    pick_device,
    pick_precision,
    processor,
    usable_cores,
)

MATTERING = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "asimd", "sve")
MEMORY_NEEDED = 3 * 2**30  # the presets take 2.2 GB at most
DISK_NEEDED = 2**30  # the data, unpacked and as an archive, and some runs
HOLD_DOWN = {
    "DYNCONV_CPU": "the operators of dynconv",
    "ATEN_CPU_CAPABILITY": "the kernels of torch",
    "ONEDNN_MAX_CPU_ISA": "the convolutions of oneDNN, which torch uses",
}
"""Environment variables that make software use a processor as if it had fewer instruction sets."""


@dataclass(frozen=True)
class Finding:
    """One finding: `state` is "ok", or "look" if something should be done about it, which `advice` describes."""

    name: str
    found: str
    state: Literal["ok", "look"] = "ok"
    advice: str = ""


def examine() -> list[Finding]:
    """Examines processor, memory, software, data and disk. Writes at most to the build cache."""
    return [*_machine(), *_software(), *_computing(), _data(), _disk()]


def report(findings: list[Finding], filled: Callable[[str, str, str], str] | None = None) -> Text:
    """The findings, one per line, then the advice. To be printed without wrapping.

    Args:
        filled: breaks a text into lines, the first of which begins with its second argument and the others with its
            third; by default nothing is broken.
    """
    filled = filled or (lambda text, indent, _: indent + text)
    width = max(len(finding.name) for finding in findings)
    text = Text()
    for finding in findings:
        start = f"{finding.state:<4}  {finding.name:<{width}}  "
        lines = filled(finding.found, start, " " * len(start))
        text.append(lines[:4], {"ok": "green", "look": "yellow"}[finding.state]).append(f"{lines[4:]}\n")
    advice = [filled(f"{finding.name}: {finding.advice}", "- ", "  ") for finding in findings if finding.advice]
    return text.append("\n" + "\n".join(["What to do:", *advice] if advice else ["Nothing to do: dynconv train quick"]))


def _machine() -> list[Finding]:
    flags = instruction_sets()
    known = ", ".join(flag for flag in MATTERING if flag in flags)
    slow = bool(flags) and not {"avx2", "asimd"} & flags
    cores, threads = usable_cores(), torch.get_num_threads()
    crowded = threads > cores
    found = [
        Finding("processor", processor()),
        _finding("instruction sets", known or "unknown", slow, "without AVX2, training takes hours; use a GPU"),
        *_held_down(),
        _finding(
            "cores", f"{cores} usable, {threads} threads in torch", crowded,
            f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other down",
        ),
    ]  # fmt: skip
    memory = available_memory()
    if memory is not None:
        advice = "training takes up to 3 GiB; lower --micro-batch, or close other programs"
        found.append(_finding("memory", f"{_gib(memory)} available", memory < MEMORY_NEEDED, advice))
    return found


def _held_down() -> list[Finding]:
    """Findings for environment variables that keep software from using the whole processor."""
    return [
        Finding(name, f"{value!r} limits {what}", "look", f"unset {name} for full speed, unless you are testing it")
        for name, what in HOLD_DOWN.items()
        if (value := os.environ.get(name))
    ]


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
    advice = "training works without it, but slower on a CPU; install a C++ compiler: apt install g++"
    found = {"fused": fused.status()}
    found |= {each.library.name: each.library.status() for each in (winograd, depthwise, norm_gelu, pixel_sum)}
    return [
        Finding("device", f"{name} (--device auto)"),
        Finding("precision", f"{precision} (--precision auto): {why}"),
        *(
            _finding(f"{name} operator", status, not status.startswith("available"), advice)
            for name, status in found.items()
        ),
    ]


def _data() -> Finding:
    """Looks where training looks, and reads what it finds, but downloads nothing."""
    named = os.environ.get(places.VARIABLE)
    if not data.at_hand("auto"):
        looked = f"{places.VARIABLE} (not set), ./data or {places.cache_folder()}"
        advice = "dynconv train downloads it (170 MB); or give --data PATH, or --data shapes for generated images"
        return Finding("data", f"CIFAR-10 is not in {looked}", "look", advice)
    try:
        dataset = data.load("auto")
    except DynconvError as error:
        source = f"{places.VARIABLE} names it; " if named else ""
        return Finding("data", str(error), "look", f"{source}repair or remove it: training will not skip it")
    found = f"{dataset.name}: {dataset.origin}, {len(dataset.train.labels)} + {len(dataset.test.labels)} images"
    advice = f"this is not CIFAR-10: to train on it, give --data {dataset.origin}"
    return _finding("data", found, dataset.name != "cifar10", advice)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    advice = "the data takes 0.4 GiB and a run about 0.1; free some space or use another disk"
    return _finding("free disk, here", _gib(free), free < DISK_NEEDED, advice)


def _finding(name: str, found: str, look: bool, advice: str) -> Finding:
    """A finding, with the advice only if `look` is true."""
    return Finding(name, found, "look", advice) if look else Finding(name, found)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
