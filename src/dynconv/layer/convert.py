"""Converts whole networks: makes static convolutions dynamic, and folds batch normalisation into the experts."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from dynconv.layer.conv import DynamicConv2d
from dynconv.layer.routing import GATES


def convert(
    module: nn.Module,
    experts: int = 4,
    where: Callable[[str, nn.Conv2d], bool] | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of `module` whose convolutions are dynamic. Its outputs start equal to those of `module`, up to rounding.

    Hooks, frozen parameters and training or evaluation mode carry over to the dynamic layers.

    Args:
        module: any network, for instance a trained one; it is not changed.
        experts: K.
        where: takes a convolution's name in `module` ("layer1.0.conv2") and the convolution, and returns whether to
            make it dynamic; by default, all are. Pointwise convolutions gain little; to leave them static, use
            `where=lambda name, conv: conv.kernel_size != (1, 1)`.
        options: as for `DynamicConv2d.from_conv`: noise, router_hidden, gate, temperature, algorithm.

    Raises:
        ValueError: there is no convolution to convert. Only `nn.Conv2d` itself counts, not subclasses or parametrised
            convolutions.
    """
    holder = nn.ModuleDict({"module": copy.deepcopy(module)})  # allows the module itself to be a convolution
    made: dict[nn.Module, DynamicConv2d] = {}
    for parent_name, parent in list(holder.named_modules()):
        for child_name, child in list(parent._modules.items()):  # named_children() skips repeated modules
            name = f"{parent_name}.{child_name}".lstrip(".").removeprefix("module").lstrip(".")
            if not _is_plain(child) or not (child in made or where is None or where(name, child)):
                continue
            if child not in made:
                made[child] = DynamicConv2d.from_conv(child, experts, **options).train(child.training)
                _move_hooks(child, made[child])
            setattr(parent, child_name, made[child])
    if not made:
        raise ValueError("convert: there is no Conv2d here, or `where` chose none")
    return holder["module"]


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether the module is a Conv2d that owns its kernel: pruning and the older weight norm compute it in a hook."""
    return type(module) is nn.Conv2d and "weight" in module._parameters


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Moves every kind of hook from `source` to `target`; nn.Module keeps each kind in its own attribute."""
    for name, value in vars(source).items():
        if name.startswith("_") and "_hook" in name:
            setattr(target, name, value)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DynamicConv2d) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def fold_batchnorm(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference, with batch normalisation folded into the experts before it.

    Folds each `BatchNorm2d` that is the only user of a `DynamicConv2d`'s output, directly or after max pooling (if its
    scales are positive, so that the two commute), dropout or identity. The shift goes into the experts' biases, so the
    gate must declare that its routing weights sum to one (`Gate.sums_to_one`). Everything else is left unchanged.

    Raises:
        ValueError: there is nothing to fold, or torch.fx cannot trace the network.
    """
    folded = copy.deepcopy(net).eval()
    try:
        nodes = list(_Tracer().trace(folded).nodes)
    except Exception as error:  # the network's own code can raise anything when it meets torch.fx's proxies
        raise ValueError(f"fold_batchnorm: torch.fx cannot trace the network: {error}") from error
    modules = dict(folded.named_modules())
    calls = Counter(modules[node.target] for node in nodes if node.op == "call_module")
    count = 0
    for node in nodes:
        norm = modules[node.target] if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or calls[norm] > 1:
            continue
        source, pooled = _before(node, modules)
        conv = modules[source.target] if source.op == "call_module" else None
        if not isinstance(conv, DynamicConv2d) or calls[conv] > 1 or len(source.users) > 1:
            continue
        own_routing = len(source.args) == 1 and not source.kwargs
        if own_routing and conv.router.sums_to_one and _fold(norm, conv, pooled):
            parent, _, name = str(node.target).rpartition(".")
            setattr(modules[parent], name, nn.Identity())
            count += 1
    if not count:
        gates = ", ".join(name for name, gate in GATES.items() if gate.sums_to_one)
        raise ValueError(
            f"fold_batchnorm: no BatchNorm2d follows a DynamicConv2d whose routing weights sum to one (gates: {gates})"
        )
    return folded


def _before(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """The node that feeds `node` through layers that commute with scaling, and whether max pooling is among them."""
    passed = (nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d)
    pooled = False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    while source.op == "call_module" and isinstance(modules[str(source.target)], passed) and len(source.users) == 1:
        pooled |= isinstance(modules[str(source.target)], nn.MaxPool2d)
        source = source.args[0]
        assert isinstance(source, fx.Node)
    return source, pooled


def _fold(norm: nn.BatchNorm2d, conv: DynamicConv2d, pooled: bool) -> bool:
    """Folds the scale and shift of `norm` into `conv`; returns whether this was possible."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    if pooled and bool((scale <= 0).any()):
        return False
    bias = torch.zeros_like(scale).expand(len(conv.weight), -1) if conv.bias is None else conv.bias.double()
    bias = (bias - norm.running_mean) * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    conv.weight.copy_(conv.weight * scale[:, None, None, None])
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
    return True
