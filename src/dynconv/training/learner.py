"""What is trained: a network, its optimizers, and the average of its weights. The step of the optimizers is here.

Shape suffixes: N images, C channels, H x W spatial, K classes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynconv.machine import Precision, autocast
from dynconv.model.net import Net
from dynconv.model.routing_statistics import BlockRouting, routing_statistics
from dynconv.model.tta import batched_logits, evaluation_batch
from dynconv.training.config import OptimConfig
from dynconv.training.distributed import ALONE, Group, synchronise_batch_norm
from dynconv.training.figures import count_correct, loss_of_batch
from dynconv.training.initial import freeze
from dynconv.training.optim import build_optimizers, load_buffers


class Learner:
    """A network with all that one step of training changes.

    In a group of processes each has the whole network, which all its steps keep the same, and a part of the images.

    Attributes:
        net: the network, on its device. `frozen` names parts of it as `TrainConfig.freeze` does; `class_weights` are
            those of the loss, float32 [K].
        optimizers: of its parameters.
        evaluated: the network that is evaluated and saved: the average of its weights if there is one, else `net`.
        device, precision: where and in what it computes. In fp16 the loss is scaled: where gradients are too large, an
            optimizer leaves the step out and the scale is halved; after 2,000 steps without that, it is doubled.
    """

    def __init__(
        self, net: Net, config: OptimConfig, device: torch.device, precision: Precision,
        *, compile: bool = False, group: Group = ALONE, frozen: Sequence[str] = (), class_weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.net, self.config, self.device, self.precision = net.to(device), config, device, precision
        self._group = group
        self._class_weights = None if class_weights is None else class_weights.to(device)
        self._still = freeze(self.net, frozen)
        if group.size > 1:
            synchronise_batch_norm(self.net, device)
        self.optimizers = build_optimizers(self.net, config)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._average = None
        if config.ema:
            self._average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        self.evaluated = cast("Net", self._average.module) if self._average else self.net
        self._parallel = DistributedDataParallel(self.net) if group.size > 1 else None
        trained = self._parallel or self.net
        self._forward = cast("Callable[[Tensor], Tensor]", torch.compile(trained) if compile else trained)

    def begin(self) -> None:
        """Puts the network into training mode, but for frozen blocks, whose statistics stay as they are."""
        self.net.train()
        for block in self._still:
            block.eval()

    def step(self, x_NCHW: Tensor, target: Tensor, micro_batch: int, batch: int | None = None) -> tuple[float, float]:
        """Forward, loss, backward and the optimizers' step of one batch, in training mode.

        Args:
            x_NCHW: this process's images of the batch, as the network takes them, on any device.
            target: classes, int64 [N], or their shares, floats [N, K].
            micro_batch: images per forward and backward pass of this process.
            batch: images of the batch in all processes; by default this one's.

        Returns:
            The loss summed over the batch, and the number of right answers. Where the loss is not finite, nothing has
            been learned from the batch.
        """
        sums = torch.zeros(2, device=self.device)
        x_NCHW, target = x_NCHW.to(self.device), target.to(self.device)
        batch = batch or len(x_NCHW)
        parts = list(zip(x_NCHW.split(micro_batch), target.split(micro_batch), strict=True))
        for number, (x, y) in enumerate(parts, 1):
            last = number == len(parts)  # with it, the processes' gradients are averaged
            with contextlib.nullcontext() if self._parallel is None or last else self._parallel.no_sync():
                with autocast(self.device, self.precision):
                    logits = self._forward(x)
                logits = logits.float()
                loss = loss_of_batch(logits, y, self.config.label_smoothing, self._class_weights)
                self._scaler.scale(loss * (len(x) * self._group.size / batch)).backward()
            sums += torch.stack((loss.detach() * len(x), count_correct(logits.detach(), y)))
        loss_sum, correct = self._group.sum(sums).tolist()
        if math.isfinite(loss_sum):
            for optimizer in self.optimizers:
                self._scaler.step(optimizer)
            self._scaler.update()
            if self._average:
                self._average.update_parameters(self.net)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return loss_sum, correct

    def logits(self, images_NCHW: Tensor, *, views: bool = False) -> Tensor:
        """Logits float32 [N, K] of the weights that are evaluated, on the device of the images; see `batched_logits`.

        Each process computes a part of them, and all get the whole.
        """
        mine = self._group.part(len(images_NCHW))
        with autocast(self.device, self.precision):
            parts = [
                batched_logits(self.evaluated, images.to(self.device), views=views).to(images.device)
                for images in images_NCHW[mine].split(evaluation_batch(images_NCHW.shape[-1]))
            ]
        logits_NK = torch.cat(parts)
        if self._group.size == 1:
            return logits_NK
        whole_NK = torch.zeros(len(images_NCHW), logits_NK.shape[1], device=self.device)
        whole_NK[mine] = logits_NK.to(self.device)
        return self._group.sum(whole_NK).to(logits_NK.device)

    def routing(self, images_NCHW: Tensor) -> list[BlockRouting]:
        """The routing of each block, computed by the operators that training uses."""
        with autocast(self.device, self.precision):
            return routing_statistics(self.evaluated, images_NCHW.to(self.device))

    def snapshot(self) -> dict[str, Tensor]:
        """A copy, in main memory, of the weights that are evaluated."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}

    def evaluate_with(self, weights: Mapping[str, Tensor]) -> None:
        """Makes what `snapshot` returned the weights that are evaluated and saved. No step must follow.

        Raises:
            RuntimeError, ValueError: they do not fit.
        """
        _load(self.evaluated, weights)

    def is_finite(self) -> bool:
        """Whether every weight and every statistic is."""
        return all(
            bool(tensor.isfinite().all()) for net in (self.net, self.evaluated) for tensor in net.state_dict().values()
        )

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened."""
        return {
            "net": self.net.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self._average.state_dict() if self._average else None,
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned. Raises RuntimeError or ValueError where it does not fit."""
        _load(self.net, state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_buffers(optimizer, saved["state"])
        if self._average:
            _load(self._average, state["average"] or {})
        if self._scaler.is_enabled() and state.get("scaler"):  # a state of another precision has none
            self._scaler.load_state_dict(_checked_scale(state["scaler"]))


def _checked_scale(state: object) -> dict[str, Any]:
    """The state of a scaler. Raises ValueError if it is none."""
    if not isinstance(state, dict):
        raise ValueError("the scale of the loss is no state")
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in state.values()):
        raise ValueError("the scale of the loss is no number")
    return state


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict`, which by itself takes whole numbers for fractions, and NaN."""
    expected = module.state_dict()
    for name, tensor in tensors.items():
        if name in expected and tensor.is_floating_point() != expected[name].is_floating_point():
            raise ValueError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} numbers")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
    module.load_state_dict(tensors)
