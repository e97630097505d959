"""A schedule for the temperature of routers, which is saved and resumed like one for a learning rate."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from torch import nn

from dynconv.layer.routing import Router

Shape = Literal["linear", "cosine", "constant"]


class TemperatureSchedule:
    """Moves the temperature of every router in a network from `start` to `end`; there it stays.

    A high temperature keeps the routing weights even while the experts are still alike. Chen et al. 2020 go from 30 to
    1 in the first ten epochs (https://arxiv.org/abs/1912.03458).

        schedule = TemperatureSchedule(net, start=30, end=1, steps=1000)
        for x, y in batches:
            ...
            optimizer.step()
            schedule.step()

    Args:
        net: any module that holds dynamic layers.
        start, end: temperatures, positive.
        steps: calls of `step` from start to end.
        shape: linear, cosine, or constant, which stays at `start`.

    Raises:
        ValueError: there is no router in `net`, or an argument that cannot be; names it.
    """

    def __init__(self, net: nn.Module, start: float, end: float = 1.0, *, steps: int, shape: Shape = "linear") -> None:
        self._routers = [module for module in net.modules() if isinstance(module, Router)]
        if not self._routers:
            raise ValueError("net: there is no dynamic layer in it")
        for name, temperature in (("start", start), ("end", end)):
            if not 0 < temperature < math.inf:
                raise ValueError(f"{name}: must be positive and finite, not {temperature}")
        if steps < 1:
            raise ValueError(f"steps: must be at least 1, not {steps}")
        if shape not in get_args(Shape):
            raise ValueError(f"shape: {shape!r} is none of {', '.join(get_args(Shape))}")
        self.start, self.end, self.steps, self.shape = start, end, steps, shape
        self.done = 0
        self._set()

    @property
    def temperature(self) -> float:
        """Of the present step."""
        progress = min(self.done / self.steps, 1.0)
        if self.shape == "constant":
            return self.start
        if self.shape == "cosine":
            progress = 0.5 * (1 - math.cos(math.pi * progress))
        return self.start + (self.end - self.start) * progress

    def step(self) -> None:
        """Goes one step on. Call it after the optimizer's."""
        self.done += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs: the steps done, and the arguments."""
        return {"done": self.done, "start": self.start, "end": self.end, "steps": self.steps, "shape": self.shape}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the other schedule was, with its arguments."""
        self.done, self.start, self.end = state["done"], state["start"], state["end"]
        self.steps, self.shape = state["steps"], state["shape"]
        self._set()

    def _set(self) -> None:
        for router in self._routers:
            router.temperature.fill_(self.temperature)
