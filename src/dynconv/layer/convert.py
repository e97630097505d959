"""Whole networks: static convolutions made dynamic, and batch normalisation folded into the experts."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from dynconv.layer.conv import DynamicConv2d


def convert(
    module: nn.Module,
    experts: int = 4,
    where: Callable[[str, nn.Conv2d], bool] | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of `module` whose convolutions are dynamic, with the same outputs at first, to rounding.

    Args:
        module: any network, for instance a trained one. It stays as it is.
        experts: K.
        where: from a convolution's name in `module` ("layer1.0.conv2") and itself, whether to make it dynamic; not
            given, all are. Pointwise ones gain little: `where=lambda name, conv: conv.kernel_size != (1, 1)`.
        options: as `DynamicConv2d.from_conv`: noise, router_hidden, activation, temperature, algorithm.

    Raises:
        ValueError: there is no such convolution. Only `nn.Conv2d` itself counts, no subclass or parametrisation.
    """
    holder = nn.ModuleDict({"module": copy.deepcopy(module)})  # so that the module itself may be a convolution
    made: dict[nn.Module, DynamicConv2d] = {}
    for parent_name, parent in list(holder.named_modules()):
        for child_name, child in list(parent._modules.items()):  # named_children() leaves out what is there twice
            name = f"{parent_name}.{child_name}".lstrip(".").removeprefix("module").lstrip(".")
            if type(child) is not nn.Conv2d or not (child in made or where is None or where(name, child)):
                continue
            if child not in made:
                made[child] = DynamicConv2d.from_conv(child, experts, **options).train(child.training)
            setattr(parent, child_name, made[child])
    if not made:
        raise ValueError("convert: there is no Conv2d here, or `where` chose none")
    return holder["module"]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DynamicConv2d) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def fold_batchnorm(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference, with batch normalisation folded into the experts that it follows.

    Folded is each `BatchNorm2d` that alone takes the output of a `DynamicConv2d`, directly or after max pooling (where
    its scales are positive, so that the two commute), dropout or identity. The shift goes into the experts' biases, so
    the routing weights have to sum to one: softmax and sparsemax do, sigmoid does not. Everything else stays.

    Raises:
        ValueError: nothing can be folded, or torch.fx cannot trace the network.
    """
    folded = copy.deepcopy(net).eval()
    try:
        nodes = list(_Tracer().trace(folded).nodes)
    except Exception as error:  # whatever the network's own code raises on torch.fx's stand-ins
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
        raise ValueError(
            "fold_batchnorm: no BatchNorm2d follows a DynamicConv2d whose routing weights sum to one, "
            "by softmax or sparsemax"
        )
    return folded


def _before(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """The node whose output reaches `node` through layers that scaling passes, and whether max pooling is one."""
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
    """Puts norm's scale and shift into conv; whether that was possible."""
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
