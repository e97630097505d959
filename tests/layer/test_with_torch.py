"""The layer under what torch does to layers: compilation, functional transforms, data-parallel training."""

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from operators import needs_operators
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call, grad, vmap
from torch.nn.parallel import DistributedDataParallel

from dynconv.layer import DynamicConv2d
from dynconv.layer.algorithms import ALGORITHMS


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
def test_compiles_to_one_graph_whatever_the_batch_size(algorithm: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3, algorithm=algorithm)
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for batch in (4, 7, 9, 33, 64, 5, 12):
        x = torch.randn(batch, 8, 12, 12)
        torch.testing.assert_close(compiled(x), layer(x))

    # One for the first batch size, one or two for all others.
    assert counter.frame_count <= 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("algorithm", ["auto", "kernel", "input", "output", "unfold"])
def test_vmap_and_per_sample_gradients(algorithm: str) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3, algorithm=algorithm)
    batches = torch.randn(3, 2, 8, 12, 12)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    torch.testing.assert_close(vmap(layer)(batches), torch.stack([layer(x) for x in batches]))
    gradients = vmap(grad(loss), (None, 0))(parameters, batches)
    for i, x in enumerate(batches):
        expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        for found, one in zip(gradients.values(), expected, strict=True):
            torch.testing.assert_close(found[i], one, rtol=1e-4, atol=1e-3)


def _data_parallel(rank: int, folder: Path, all_saved: Barrier) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3)
    whole = torch.randn(16, 8, 12, 12)
    parallel = DistributedDataParallel(layer)
    parallel(whole[8 * rank : 8 * rank + 8]).square().mean().backward()
    torch.save([parameter.grad for parameter in layer.parameters()], folder / f"{rank}.pt")
    all_saved.wait()
    # The process group is not destroyed: its destructor holds the GIL while it joins a thread that may be waiting for
    # the GIL (https://github.com/pytorch/pytorch/issues/56297). One run in five hung.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_data_parallel_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    all_saved = mp.get_context("spawn").Barrier(2)
    mp.start_processes(_data_parallel, (tmp_path, all_saved), nprocs=2, start_method="spawn")
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3)
    layer(torch.randn(16, 8, 12, 12)).square().mean().backward()

    for rank in range(2):
        for found, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), layer.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)
