"""Converts whole networks: makes static convolutions dynamic, and folds batch normalisation into the experts."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn

from dynconv.layer.conv import DynamicConv, DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynconv.layer.routing import GATES
from dynconv.layer.static import Static

Where = Callable[[str, Static], bool] | Collection[str] | type[nn.Module] | str

ALL_BUT_THE_FIRST = "all but the first"

_DYNAMIC: dict[type[nn.Module], type[DynamicConv]] = {
    layer.static_type: layer for layer in (DynamicConv1d, DynamicConv2d, DynamicConv3d)
}

logger = logging.getLogger(__name__)


def convert(module: nn.Module, experts: int = 4, where: Where | None = None, **options: Any) -> nn.Module:
    """A copy of `module` whose convolutions are dynamic. Its outputs start equal to those of `module`, up to rounding.

    Hooks, frozen parameters and training or evaluation mode carry over to the dynamic layers; their outputs have the
    memory format of their inputs. The logger `dynconv.layer.convert` tells at level INFO which convolutions stayed, and
    why.

    Args:
        module: any network of Conv1d, Conv2d or Conv3d, for instance a trained one; it is not changed.
        experts: K.
        where: which convolutions to make dynamic; by default, all. One of
            - a function of a convolution's name in `module` ("layer1.0.conv2") and the convolution. Pointwise
              convolutions gain little; to leave them static, use `lambda name, conv: conv.kernel_size != (1, 1)`,
            - a collection of names, or one name,
            - a class of convolutions,
            - "all but the first".
        options: as for `DynamicConv2d.from_conv`: noise, router_hidden, gate, temperature, algorithm.

    Raises:
        ValueError: there is no convolution to convert. Subclasses that compute something else, and parametrised or
            pruned convolutions, cannot be converted.
    """
    holder = nn.ModuleDict({"module": copy.deepcopy(module)})  # allows the module itself to be a convolution
    chosen = _chooser(where)
    made: dict[nn.Module, DynamicConv] = {}
    left: list[str] = []
    for parent_name, parent in list(holder.named_modules()):
        for child_name, child in list(parent._modules.items()):  # named_children() skips repeated modules
            name = f"{parent_name}.{child_name}".lstrip(".").removeprefix("module").lstrip(".")
            if not isinstance(child, Static):
                continue
            if child not in made:
                reason = _obstacle(child) or ("" if chosen(name, child) else "`where` did not choose it")
                if reason:
                    left.append(f"{name or type(child).__name__} ({reason})")
                    continue
                made[child] = _dynamic(child, experts, options)
            setattr(parent, child_name, made[child])
    if not made:
        because = f": {', '.join(left)}" if left else ""
        raise ValueError(f"convert: there is no Conv1d, Conv2d or Conv3d to convert{because}")
    logger.info("%d convolutions made dynamic; left as they are: %s", len(made), ", ".join(left) or "none")
    return holder["module"]


def _chooser(where: Where | None) -> Callable[[str, Static], bool]:
    """`where` as a function of a convolution's name and the convolution."""
    if where is None:
        return lambda name, conv: True
    if where == ALL_BUT_THE_FIRST:
        first: list[nn.Module] = []

        def is_later(name: str, conv: Static) -> bool:
            first.append(conv)
            return conv is not first[0]

        return is_later
    if isinstance(where, type):
        return lambda name, conv: isinstance(conv, where)
    if isinstance(where, Collection):
        names = {where} if isinstance(where, str) else set(where)
        return lambda name, conv: name in names
    return where


def _base(conv: nn.Module) -> type[nn.Module]:
    return next(base for base in _DYNAMIC if isinstance(conv, base))


def _obstacle(conv: Static) -> str:
    """Why the dynamic layer would not compute what `conv` does; empty if it would."""
    base = _base(conv)
    own = {name for name in ("forward", "_conv_forward") if getattr(type(conv), name) is not getattr(base, name)}
    if own:
        return f"{type(conv).__name__} has a {' and a '.join(sorted(own))} of its own"
    if "weight" not in conv._parameters:  # pruning and the older weight norm compute it in a hook
        return "its kernel is computed: pruned, or parametrised"
    return ""


def _dynamic(conv: Static, experts: int, options: dict[str, Any]) -> DynamicConv:
    layer = _DYNAMIC[_base(conv)].from_conv(conv, experts, **options).train(conv.training)
    _move_hooks(conv, layer)
    return layer


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Moves every kind of hook from `source` to `target`; nn.Module keeps each kind in its own attribute."""
    for name, value in vars(source).items():
        if name.startswith("_") and "_hook" in name:
            setattr(target, name, value)


Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DynamicConv) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def fold_batchnorm(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference, with batch normalisation folded into the experts before it.

    Folds each batch normalisation that is the only user of a dynamic layer's output, directly or after max pooling (if
    its scales are positive, so that the two commute), dropout or identity. The shift goes into the experts' biases, so
    the gate must declare that its routing weights sum to one (`Gate.sums_to_one`). Everything else is left unchanged.

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
        if not isinstance(norm, _NORMS) or norm.running_mean is None or calls[norm] > 1:
            continue
        source, pooled = _before(node, modules)
        conv = modules[source.target] if source.op == "call_module" else None
        if not isinstance(conv, DynamicConv) or calls[conv] > 1 or len(source.users) > 1:
            continue
        own_routing = len(source.args) == 1 and not source.kwargs
        if own_routing and conv.router.sums_to_one and _fold(norm, conv, pooled):
            parent, _, name = str(node.target).rpartition(".")
            setattr(modules[parent], name, nn.Identity())
            count += 1
    if not count:
        gates = ", ".join(name for name, gate in GATES.items() if gate.sums_to_one)
        raise ValueError(
            "fold_batchnorm: no batch normalisation follows a dynamic layer whose routing weights sum to one (gates: "
            f"{gates})"
        )
    return folded


def _before(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """The node that feeds `node` through layers that commute with scaling, and whether max pooling is among them."""
    passed = (*_POOLS, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    pooled = False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    while source.op == "call_module" and isinstance(modules[str(source.target)], passed) and len(source.users) == 1:
        pooled |= isinstance(modules[str(source.target)], _POOLS)
        source = source.args[0]
        assert isinstance(source, fx.Node)
    return source, pooled


def _fold(norm: Norm, conv: DynamicConv, pooled: bool) -> bool:
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
    conv.weight.copy_(conv.weight * scale.view(-1, 1, *(1,) * conv.dims))
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
    return True
