"""Parameter groups, optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dynconv.machine import pick_precision
from dynconv.model.net import Net
from dynconv.training.config import OptimConfig


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz iteration, for banks of kernels [K, O, C, height, width].

    Each expert is a matrix [O, C*height*width] by itself; orthogonalised together, experts with the same gradient would
    share one update and never part. Before each step a kernel is scaled to norm sqrt(O), the norm of a matrix with
    orthonormal rows, so that the learning rate is relative. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon: takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(buffer, alpha=group["momentum"]).flatten(2)
                flat = parameter.flatten(2)
                norms = flat.norm(dim=(1, 2), keepdim=True)[:, :, :, None, None]
                parameter.mul_(math.sqrt(parameter.shape[1]) / norms.clamp_min(1e-12))
                parameter.add_(orthogonalise(update).view_as(parameter), alpha=-group["lr"])


NEWTON_SCHULZ_STEPS = 3
NEWTON_SCHULZ_QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of x, x^3 and x^5, by which small singular values grow fast. They are Jordan's (see `Muon`)."""


def orthogonalise(matrices_KRC: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Nearly the nearest semi-orthogonal matrix to each of K matrices [R, C]: singular values within about 0.3 of 1.

    As in Jordan's code it computes in bf16, where the device multiplies that natively.
    """
    a, b, c = NEWTON_SCHULZ_QUINTIC
    precision, _ = pick_precision("auto", matrices_KRC.device)
    x = matrices_KRC.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_KRC.dtype)


_ENDINGS = {"conv.weight": "experts", "conv.bias": "biases", "norm.bias": "biases"}


def parameter_groups(net: Net) -> dict[str, list[nn.Parameter]]:
    """The learned parameters by their part in the network: experts, routers, biases, head; none that are frozen.

    Raises:
        ValueError: a parameter that is none of these; names it.
    """
    groups: dict[str, list[nn.Parameter]] = {"experts": [], "routers": [], "biases": [], "head": []}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def part_of(name: str) -> str:
    """The part of the network that a parameter belongs to: experts, routers, biases or head.

    Squeeze-and-excitation and residual scales, small layers that multiply as routing weights do, are with the routers.

    Raises:
        ValueError: none of these. Each part has a learning rate of its own, 300 times apart, so none can be guessed.
    """
    if ".router." in name or ".excite." in name or name.endswith(".scale"):
        return "routers"
    if name.startswith("head."):
        return "head"
    for ending, part in _ENDINGS.items():
        if name.endswith(f".{ending}"):
            return part
    raise ValueError(f"the optimizer has no group for the parameter {name}; add it to part_of")


Groups = dict[str, list[nn.Parameter]]
OPTIMIZERS: dict[str, Callable[[Groups, OptimConfig], list[Optimizer]]] = {}
"""By name: from the parameters by their part to the optimizers, whose groups carry the part's name."""


def optimizer(name: str) -> Callable[[Callable[[Groups, OptimConfig], list[Optimizer]]], Any]:
    """Registers what `optim.name` stands for."""

    def register(build: Callable[[Groups, OptimConfig], list[Optimizer]]) -> Any:
        OPTIMIZERS[name] = build
        return build

    return register


def build_optimizers(net: Net, config: OptimConfig) -> list[Optimizer]:
    """The optimizers, whose groups carry "name" and "peak_lr" for the schedule. Raises as `parameter_groups`."""
    optimizers = OPTIMIZERS[config.name](parameter_groups(net), config)
    for each in optimizers:
        for group in each.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


@optimizer("muon")
def _muon(groups: Groups, config: OptimConfig) -> list[Optimizer]:
    optimizers: list[Optimizer] = []
    if "experts" in groups:
        optimizers.append(Muon(groups["experts"], config.lr * config.backbone_rate, config.momentum))
        optimizers[-1].param_groups[0]["name"] = "experts"
    rates = {"biases": config.bias_lr, "head": config.head_lr}
    by_sgd = [_group(name, groups[name], config, lr) for name, lr in rates.items() if name in groups]
    if by_sgd:
        optimizers.append(SGD(by_sgd, momentum=config.sgd_momentum, nesterov=config.sgd_momentum > 0))
    if "routers" in groups:
        group = _group("routers", groups["routers"], config, config.router_lr) | {"weight_decay": 0.0}
        optimizers.append(AdamW([group], betas=config.router_betas))
    return optimizers


@optimizer("sgd")
def _sgd(groups: Groups, config: OptimConfig) -> list[Optimizer]:
    every = [_group(name, parameters, config, config.lr) for name, parameters in groups.items()]
    return [SGD(every, momentum=config.momentum, nesterov=config.momentum > 0)]


@optimizer("adamw")
def _adamw(groups: Groups, config: OptimConfig) -> list[Optimizer]:
    every = [_group(name, parameters, config, config.lr) for name, parameters in groups.items()]
    return [AdamW(every, betas=config.betas)]


_BUFFERS = {Muon: {"momentum_buffer"}, SGD: {"momentum_buffer"}, AdamW: {"step", "exp_avg", "exp_avg_sq"}}
"""What an optimizer keeps of each parameter, by its type; of other types it is not known."""


def load_buffers(optimizer: Optimizer, buffers: dict[int, dict[str, Tensor]]) -> None:
    """Gives an optimizer the buffers of a saved state; everything else about it follows from the configuration.

    Args:
        buffers: by the number of the parameter, as in `Optimizer.state_dict`.

    Raises:
        ValueError: they are not those of this optimizer, or not finite.
    """
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    for number, saved in buffers.items():
        if number not in parameters or not isinstance(saved, dict):
            raise ValueError("the optimizer's state is of other parameters")
        if saved and saved.keys() != _BUFFERS.get(type(optimizer), saved.keys()):
            raise ValueError("the optimizer's state is of another optimizer")
        for value in saved.values():
            if not isinstance(value, Tensor) or value.shape not in ((), parameters[number].shape):
                raise ValueError("the optimizer's state is of other parameters")
            if not value.isfinite().all():
                raise ValueError("the optimizer's state holds NaN or infinity")
    optimizer.load_state_dict({"state": buffers, "param_groups": optimizer.state_dict()["param_groups"]})


def _group(name: str, parameters: list[nn.Parameter], config: OptimConfig, lr: float) -> dict[str, Any]:
    if name != "head":
        lr *= config.backbone_rate
    # torch multiplies weight_decay by the learning rate.
    return {"name": name, "params": parameters, "lr": lr, "weight_decay": config.weight_decay / lr}


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of `step` (from 0) of `steps`, as a fraction of the peak."""
    warmup = config.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rates(optimizers: list[Optimizer], factor: float) -> dict[str, float]:
    """Sets every group's learning rate to its peak times factor; returns them by the groups' names."""
    rates: dict[str, float] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
            rates[group["name"]] = group["lr"]
    return rates
