"""Time and memory of a training step against K, N, width, image size and batch -> benchmarks/growth.json and .png.

    python benchmarks/growth.py        (on Linux, which tells the largest memory of a process)

The network of `quick`, one thing changed at a time; N by blocks of 64 channels on maps of half the image. Each point is
a process of its own, so that its largest memory is its own: two steps to warm up, then the median of five. Memory: the
process's largest, less what it had before the network was built. The points of a curve are measured in turns. Dashed:
what the time would be if it grew as the multiply-adds do, from the point of `quick` (of four blocks) on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dynconv.artifacts.commit import require_committed
from dynconv.artifacts.environment import environment
from dynconv.errors import DynconvError
from dynconv.machine import pick_precision
from dynconv.model.cost import total_multiply_adds
from dynconv.model.net import Net
from dynconv.training.learner import Learner
from dynconv.training.presets import PRESETS

OUTPUT = Path(__file__).with_name("growth.json")
QUICK = {"experts": 2, "blocks": 0, "width": 1.0, "size": 32, "batch": 250}
CURVES: dict[str, tuple[str, list[float]]] = {
    "experts": ("K, experts in each block", [1, 2, 4, 8, 16]),
    "blocks": ("N, blocks", [2, 4, 8, 16]),
    "width": ("width, in that of quick", [0.25, 0.5, 1, 2]),
    "size": ("image side, pixels", [16, 24, 32, 48, 64]),
    "batch": ("images in a batch", [62, 125, 250, 500, 1000]),
}
"""What is changed: its name for people, and its values."""
ROUNDS = 3


def measured(point: dict[str, Any]) -> dict[str, float]:
    """Seconds and bytes of a training step in this process, and its multiply-adds (forward)."""
    config = PRESETS["quick"]()
    model = config.model
    changes: dict[str, Any] = {"experts": (int(point["experts"]),)}
    if point["blocks"]:
        blocks = int(point["blocks"])
        changes |= {"widths": (64,) * blocks, "pools": (2, *[1] * (blocks - 1))}
    else:
        changes["widths"] = tuple(round(width * point["width"]) for width in model.widths)
    batch, size = int(point["batch"]), int(point["size"])
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), generator=generator)
    before = peak()
    torch.manual_seed(0)
    net = Net(model.model_copy(update=changes), 10)
    net.input.fit(images[:50])
    device = torch.device("cpu")
    learner = Learner(net, config.optim, device, pick_precision("auto", device)[0])
    learner.begin()
    times = []
    for turn in range(7):
        began = time.perf_counter()
        learner.step(images, labels, batch, batch)
        if turn > 1:
            times.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(times),
        "bytes": peak() - before,
        "multiply_adds": batch * total_multiply_adds(net, size),
    }


def peak() -> int:
    """Largest memory of this program so far, in bytes. `getrusage` would count that of the program that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def in_a_process(point: dict[str, Any]) -> dict[str, float]:
    """`measured`, of a new process."""
    words = [sys.executable, __file__, "--point", json.dumps(point)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def curve(name: str, values: list[float]) -> list[dict[str, float]]:
    """The points of one curve: medians over rounds of seconds, and the largest memory."""
    base = QUICK | ({"size": 32} if name != "blocks" else {"size": 24, "blocks": 4})
    rounds = [[in_a_process(base | {name: value}) for value in values] for _ in range(ROUNDS)]
    points = []
    for value, of_value in zip(values, zip(*rounds, strict=True), strict=True):
        seconds = statistics.median(each["seconds"] for each in of_value)
        largest = max(each["bytes"] for each in of_value)
        points.append(
            {"value": value, "seconds": seconds, "bytes": largest, "multiply_adds": of_value[0]["multiply_adds"]}
        )
        print(f"{name} {value}: {seconds:.3f} s, {largest / 1e6:,.0f} MB", flush=True)
    return points


def draw(curves: dict[str, list[dict[str, float]]]) -> None:
    """The curves, time above and memory below."""
    figure = Figure(figsize=(3 * len(curves), 5.6), layout="constrained")
    axes = figure.subplots(2, len(curves))
    for column, (name, points) in enumerate(curves.items()):
        label, _ = CURVES[name]
        values = [point["value"] for point in points]
        base = next(point for point in points if point["value"] == (4 if name == "blocks" else QUICK[name]))
        time_axes, memory_axes = axes[0, column], axes[1, column]
        time_axes.plot(values, [1000 * point["seconds"] for point in points], "o-", label="measured")
        rate = base["seconds"] / base["multiply_adds"]
        expected = [1000 * rate * point["multiply_adds"] for point in points]
        time_axes.plot(values, expected, "--", color="grey", label="as multiply-adds")
        memory_axes.plot(values, [point["bytes"] / 1e6 for point in points], "s-", color="tab:green")
        for each in (time_axes, memory_axes):
            each.set_ylim(bottom=0)
            each.set_xticks(values, [f"{value:g}" for value in values], rotation=45)
            each.grid(alpha=0.3)
        memory_axes.set_xlabel(label)
    axes[0, 0].set_ylabel("a step, ms")
    axes[1, 0].set_ylabel("memory, MB")
    axes[0, 0].legend()
    figure.savefig(OUTPUT.with_suffix(".png"), dpi=110)


def main() -> None:
    """Measures all points, or one of them in a process of its own, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    point = parser.parse_args().point
    if point:
        print(json.dumps(measured(point)))
        return
    try:
        require_committed(OUTPUT, OUTPUT.with_suffix(".png"))
    except DynconvError as error:
        sys.exit(str(error))
    curves = {name: curve(name, values) for name, (_, values) in CURVES.items()}
    about = environment("cifar10")
    machine = {"processor": about.processor, "cores": about.cores, "git_commit": about.git_commit}
    OUTPUT.write_text(json.dumps({"machine": machine, "curves": curves}, indent=1) + "\n", encoding="utf-8")
    draw(curves)


if __name__ == "__main__":
    main()
