"""The processes that train one network together, as torchrun starts them: who writes, what they add up and agree on.

A process that is alone is a group of one, for which all of this costs nothing. Shape suffixes: N images, C channels,
H x W spatial.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynconv.errors import DynconvError
from dynconv.machine import pick_device, usable_cores

Made = TypeVar("Made")


class ToldError(DynconvError):
    """An error that another process of the group has met, and tells the user."""


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Which of `count` things are this process's: the parts of a group differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def share_of_batch(self, batch: int, micro_batch: int) -> tuple[Tensor | None, int]:
        """The positions in a batch of this process's images, None for all; and how many it has of a micro-batch.

        Each micro-batch is shared, so batch normalisation averages over the same images in any number of processes.
        """
        if self.size == 1:
            return None, micro_batch
        part = torch.arange(micro_batch)[self.part(micro_batch)]
        return (torch.arange(0, batch, micro_batch)[:, None] + part).flatten(), len(part)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def most(self, *numbers: int) -> list[int]:
        """The largest that any process has of each number."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, device=_device_of_collectives())
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return cast("list[int]", tensor.tolist())

    def share(self, make: Callable[[], Made]) -> Made:
        """What `make` returns in the leading process, which alone calls it.

        Raises:
            DynconvError: what `make` raised; `ToldError` in the others.
        """
        if self.size == 1:
            return make()
        told = [self._attempt(make) if self.leads else None]
        dist.broadcast_object_list(told, device=_device_of_collectives())
        made, error = cast("tuple[Made, DynconvError | None]", told[0])
        if error is not None:
            raise error if self.leads else ToldError(str(error))
        return made

    def each(self, make: Callable[[], Made]) -> Made:
        """What `make` returns, called in each process; if it fails in one, it fails in all.

        Raises:
            DynconvError: what `make` raised in the first process in which it failed; `ToldError` in the others.
        """
        if self.size == 1:
            return make()
        made, error = self._attempt(make)
        errors: list[str | None] = [None] * self.size
        dist.all_gather_object(errors, error and str(error))
        failed = next((rank for rank, text in enumerate(errors) if text is not None), None)
        if failed is not None:
            raise error if error is not None and failed == self.rank else ToldError(str(errors[failed]))
        return cast("Made", made)

    def first_on_each_machine(self, make: Callable[[], Made]) -> Made:
        """As `each`, but the first process of a machine goes before the others, which find what it has downloaded."""
        first = self.each(make if self.local_rank == 0 else lambda: None)
        return self.each(make if self.local_rank else lambda: cast("Made", first))

    def _attempt(self, make: Callable[[], Made]) -> tuple[Made | None, DynconvError | None]:
        try:
            return make(), None
        except DynconvError as error:
            return None, error


ALONE = Group()


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of this process, by the environment variables that torchrun sets; alone where there are none.

    On CPUs the processes of a machine share its cores, and talk by gloo; on GPUs each takes one, and they talk by NCCL.
    A group that exists already, such as Ray Train's, is used as it is.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DynconvError: more processes on a machine than it has GPUs, or a device on which processes cannot train
            together; later, if another process of the group ends.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    chosen = pick_device(device)
    _claim(chosen, local_rank, local_size)
    ours = not dist.is_initialized()
    try:
        if ours:
            _join("nccl" if chosen.type == "cuda" else "gloo")
        yield Group(dist.get_rank(), size, local_rank)
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise DynconvError(
            f"another of the {size} processes of this training has ended, and says why itself if it could; continue "
            "with --resume RUN"
        ) from error
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def _join(backend: str) -> None:
    from torch.distributed.rendezvous import rendezvous  # which some builds of torch do not have

    store, rank, size = next(rendezvous("env://"))
    if _keeps_its_store():  # with the addresses of processes that have ended
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _claim(device: torch.device, local_rank: int, local_size: int) -> None:
    """Gives this process its share of the machine."""
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise DynconvError(
                f"{local_size} processes on a machine with {torch.cuda.device_count()} GPUs; start one for each at "
                "most (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(local_rank)
    elif device.type != "cpu":
        raise DynconvError(f"device {device.type}: several processes train on cpu or cuda only; choose --device cpu")
    elif os.environ.get("OMP_NUM_THREADS") in (None, "1"):  # 1 is torchrun's own choice
        torch.set_num_threads(max(1, usable_cores() // local_size))


def _keeps_its_store() -> bool:
    """Whether torchrun's store outlives a restart. It does unless it is told otherwise."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def restarted(group: Group) -> bool:
    """Whether torchrun has started this training again, because a process of it had ended.

    A machine that has taken the place of another counts its own restarts from 0, so all are asked.
    """
    return group.most(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))[0] > 0


def require_restartable(run: Path | None) -> None:
    """Refuses torchrun's --max-restarts where a restarted training could not go on.

    Args:
        run: the run directory that was named.

    Raises:
        DynconvError: without a run directory; on several machines, with a store that outlives restarts: in it, a
            machine that has taken the place of another waits for an address that the others do not write again.
    """
    if not int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        return
    if run is None:
        raise DynconvError("torchrun --max-restarts needs --run PATH here, where a restarted training finds its state")
    several = os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")
    if several and _keeps_its_store():
        raise DynconvError(
            "torchrun --max-restarts on several machines needs --rdzv-backend=c10d, and on each machine the "
            "environment variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; otherwise a machine that comes back cannot join"
        )


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes, on a CPU, where torch has none: [N, C, H, W] -> the same.

    Mean and variance are computed one after the other, so that nothing cancels.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        x = x_NCHW.float()
        count = float(_sum_over_processes(x.new_tensor(float(x.numel() // x.shape[1]))))
        mean_C = _sum_over_processes(x.sum((0, 2, 3))) / count
        centred_NCHW = x - mean_C[:, None, None]
        variance_C = _sum_over_processes(centred_NCHW.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (count / max(count - 1, 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        return (centred_NCHW * scale_C[:, None, None] + self.bias[:, None, None]).to(x_NCHW.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of the processes' tensors. Every process's loss depends on all of them, so gradients add up too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(x: Tensor) -> Tensor:
    return cast("Tensor", _SumOverProcesses.apply(x))  # type: ignore[no-untyped-call]


def synchronise_batch_norm(net: nn.Module, device: torch.device) -> None:
    """Makes the network's batch normalisation average over the images of all processes; its state stays the same."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm2d  # which has the same attributes, and so keeps parameters and hooks


def _device_of_collectives() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _lost(error: RuntimeError) -> bool:
    """Whether an error says that another process has gone. Gloo has no type of its own for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
