"""Images per second of a network in training, with each algorithm for all its layers and with `auto`."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.nn import functional as F

from dynconv.config import RunConfig
from dynconv.nn import choice
from dynconv.nn.conv import DynamicConv2d
from dynconv.nn.net import build_net


def measure_step(config: RunConfig, batch: int, image_size: int, rounds: int) -> dict[str, Any]:
    """Forward, loss and backward on random images, the algorithms taking turns; float32 on this machine's CPU.

    An algorithm that cannot compute a layer leaves it to auto.
    """
    torch.manual_seed(0)
    net = build_net(config.model, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    net.input.fit(images)
    layers = [layer for layer in net.modules() if isinstance(layer, DynamicConv2d)]
    times: dict[str, list[float]] = {name: [] for name in ("auto", *choice.FIXED)}
    for turn in range(rounds + 1):
        for name, taken in times.items():
            for layer in layers:
                layer.algorithm = name  # type: ignore[assignment]
            began = time.perf_counter()
            F.cross_entropy(net(images), labels).backward()
            if turn:  # the first round warms up
                taken.append(time.perf_counter() - began)
    rates = {name: batch / statistics.median(taken) for name, taken in times.items()}
    return {"preset": config.preset, "batch": batch, "image_size": image_size, "images_per_second": rates}
