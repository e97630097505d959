"""Training that starts from the weights of another network: what is taken over, and what of it stays as it is.

Experts may be split: where the new network has a multiple of the old one's K, each expert becomes several, nearly
alike, which share its routing weight. Shape suffixes: K experts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dynconv.artifacts.found_weights import find_weights
from dynconv.artifacts.weights import Weights, load_weights
from dynconv.errors import DynconvError
from dynconv.model.net import Block, Net
from dynconv.training.config import TrainConfig
from dynconv.training.optim import part_of

SPLIT_NOISE = 0.05
"""Standard deviation of the noise by which experts that one was split into differ, relative to their weights'."""

logger = logging.getLogger(__name__)


def initial_weights(config: TrainConfig) -> Weights | None:
    """The weights that `config.init` names; None for none. Raises DynconvError where they cannot be read."""
    return load_weights(find_weights(config.init)[0]) if config.init else None


def with_initial_model(base: TrainConfig, init: str) -> TrainConfig:
    """`base`, with the network of the weights that training is to start from, if any. Raises as `initial_weights`."""
    if not init:
        return base
    weights = initial_weights(base.model_copy(update={"init": init}))
    assert weights is not None
    return base.model_copy(update={"model": weights.model})


@torch.no_grad()
def take_over(net: Net, classes: Sequence[str], weights: Weights) -> list[str]:
    """Gives `net` what fits of the weights, its preprocessing included; says for each part what that was.

    Raises:
        DynconvError: the networks have different preprocessing, or nothing fits.
    """
    old = weights.state
    if old.get("input.whitening", torch.empty(0)).shape != net.input.whitening.shape or (
        old["input.mean"].shape != net.input.mean.shape
    ):
        raise DynconvError(
            "init: these weights were trained with other preprocessing; set model.whiten and model.grey as they have it"
        )
    _copy(net.input.state_dict(), old, "input.")
    net.input.fitted = True
    said, taken = [], False
    for number, block in enumerate(net.backbone, 1):
        parts = _take_block(block, old, f"backbone.{number - 1}.")
        taken = taken or bool(parts)
        said.append(f"block {number}: {', '.join(parts) + ' taken' if parts else 'new'}")
    if not taken:
        raise DynconvError(f"init: {_why_nothing_fits(net, old)}")
    same_head = list(classes) == list(weights.classes) and _fits(net.head.state_dict(), old, "head.")
    if same_head:
        _copy(net.head.state_dict(), old, "head.")
    why = "new, for another shape"
    if list(classes) != list(weights.classes):
        why = f"new, for other classes ({len(classes)} here, {len(weights.classes)} there)"
    said.append(f"head: {'taken' if same_head else why}")
    return said


def _why_nothing_fits(net: Net, old: Mapping[str, Tensor]) -> str:
    for number, block in enumerate(net.backbone):
        bank = old.get(f"backbone.{number}.conv.weight")
        if bank is not None and bank.shape[1:] == block.conv.weight.shape[1:]:
            k, ours = len(bank), len(block.conv.weight)
            wanted = f"{k}, or a multiple of it" if block.conv.router.sums_to_one else f"{k}, as this gate needs"
            return f"these weights have K = {k}, which {ours} does not fit; set model.experts to {wanted}"
    return "no block of these weights has the shape of one here; leave model.widths as they have it"


def freeze(net: Net, names: Sequence[str]) -> list[Block]:
    """Keeps parts of the network as they are, named as in `TrainConfig.freeze`; returns the blocks frozen as a whole.

    Raises:
        DynconvError: nothing is left to learn.
    """
    blocks = {f"block{number}": block for number, block in enumerate(net.backbone, 1)}
    for name in names:
        if name in blocks:
            blocks[name].requires_grad_(False)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and part_of(name) in names:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise DynconvError(f"freeze: {', '.join(names)} leave nothing to learn")
    return [blocks[name] for name in names if name in blocks]


def _take_block(block: Block, old: Mapping[str, Tensor], prefix: str) -> list[str]:
    """What a block takes of one of the old network; nothing where its experts do not fit."""
    experts, bank = block.conv.weight, old.get(f"{prefix}conv.weight")
    if bank is None or bank.shape[1:] != experts.shape[1:]:
        return []
    times, rest = divmod(len(experts), len(bank))
    if rest or (times > 1 and not block.conv.router.sums_to_one):
        return []
    parts = ["experts" if times == 1 else f"experts (each split into {times})"]
    experts.copy_(_repeated(bank, times))
    if times > 1:
        experts.add_(torch.randn_like(experts) * (SPLIT_NOISE * experts.std()))
    modules = {"router": "conv.router.", "normalisation": "norm.", "excitation": "excite."}
    for name, place in modules.items():
        state = block.get_submodule(place.rstrip(".")).state_dict()
        last = [f"{prefix}conv.router.linear.{part}" for part in ("weight", "bias")]  # a row for each expert
        found = {key: _repeated(value, times) if key in last else value for key, value in old.items()}
        if state and _fits(state, found, prefix + place):
            _copy(state, found, prefix + place)
            parts.append(name)
    for name, parameter in (("conv.bias", block.conv.bias), ("scale", block.scale)):
        value = old.get(prefix + name)
        if parameter is not None and value is not None:
            value = _repeated(value, times) if name == "conv.bias" else value
            if value.shape == parameter.shape:
                parameter.copy_(value)
    return parts


def _repeated(bank_K: Tensor, times: int) -> Tensor:
    return bank_K.repeat_interleave(times, dim=0)


def _fits(state: Mapping[str, Tensor], old: Mapping[str, Tensor], prefix: str) -> bool:
    return all(prefix + name in old and old[prefix + name].shape == value.shape for name, value in state.items())


def _copy(state: Mapping[str, Tensor], old: Mapping[str, Tensor], prefix: str) -> None:
    for name, value in state.items():
        value.copy_(old[prefix + name])
