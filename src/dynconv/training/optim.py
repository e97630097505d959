"""Parameter groups, optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dynconv.config import FIXED, OptimConfig
from dynconv.machine import pick_precision
from dynconv.model.net import Net


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


def orthogonalise(matrices_KRC: Tensor, steps: int = int(FIXED["newton-schulz"]["steps"])) -> Tensor:
    """Nearly the nearest semi-orthogonal matrix to each of K matrices [R, C]: singular values within about 0.3 of 1.

    The quintic's coefficients make small singular values grow fast; they are Jordan's (see `Muon`). So is bf16, taken
    where the device multiplies it natively.
    """
    a, b, c = (FIXED["newton-schulz"][name] for name in "abc")
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


def parameter_groups(net: Net) -> dict[str, list[nn.Parameter]]:
    """The learned parameters by their part in the network: experts, routers, biases, classifier."""
    groups: dict[str, list[nn.Parameter]] = {"experts": [], "routers": [], "biases": [], "classifier": []}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".router." in name:
            groups["routers"].append(parameter)
        elif name.startswith("classifier."):
            groups["classifier"].append(parameter)
        else:
            groups["experts" if name.endswith("conv.weight") else "biases"].append(parameter)
    return groups


def build_optimizers(net: Net, config: OptimConfig) -> list[Optimizer]:
    """The optimizers, whose groups carry "name" and "peak_lr" for the schedule."""
    groups = {name: params for name, params in parameter_groups(net).items() if params}
    if config.name == "muon":
        rates = {"biases": config.bias_lr, "classifier": config.classifier_lr}
        by_sgd = [_group(name, groups[name], config, lr) for name, lr in rates.items() if name in groups]
        optimizers = [
            Muon(groups["experts"], config.lr, config.momentum),
            SGD(by_sgd, momentum=FIXED["biases and classifier, muon"]["momentum"], nesterov=True),
            AdamW(groups["routers"], config.router_lr, weight_decay=0.0, **_adam("routers, muon")),
        ]
        for optimizer, name in ((optimizers[0], "experts"), (optimizers[2], "routers")):
            optimizer.param_groups[0]["name"] = name
    elif config.name == "sgd":
        all_groups = [_group(name, params, config, config.lr) for name, params in groups.items()]
        optimizers = [SGD(all_groups, momentum=config.momentum, nesterov=config.momentum > 0)]
    else:
        by_adamw = [_group(name, params, config, config.lr) for name, params in groups.items()]
        optimizers = [AdamW(by_adamw, **_adam("adamw"))]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _group(name: str, params: list[nn.Parameter], config: OptimConfig, lr: float) -> dict[str, object]:
    # torch multiplies weight_decay by the learning rate.
    return {"name": name, "params": params, "lr": lr, "weight_decay": config.weight_decay / lr}


def _adam(where: str) -> dict[str, Any]:
    constants = FIXED[where]
    return {"betas": (constants["beta1"], constants["beta2"]), "eps": constants["epsilon"]}


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
