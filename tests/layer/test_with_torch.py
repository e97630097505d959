"""The layer under what torch does to layers: compilation, functional transforms, data-parallel training."""

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from operators import DENSE, needs_operators
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.func import functional_call, grad, jacfwd, jacrev, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune

from dynconv.layer import DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynconv.layer.conv import DynamicConv

LAYERS = (DynamicConv1d, DynamicConv2d, DynamicConv3d)


def graphs_for_many_batch_sizes(layer: nn.Module, dynamic: bool | None) -> int:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    for batch in (4, 7, 9, 33, 64, 5, 12):
        x = torch.randn(batch, 8, 12, 12)
        torch.testing.assert_close(compiled(x), layer(x))
    return counter.frame_count


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_as_few_graphs_as_torchs_convolution(algorithm: str, dynamic: bool | None) -> None:
    """With dynamic=True that is one, or two where torch itself tells small batches of a convolution from large ones."""
    if algorithm in ("fused", "winograd"):
        needs_operators()
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=3, algorithm=algorithm)

    graphs = graphs_for_many_batch_sizes(layer, dynamic)

    assert graphs <= graphs_for_many_batch_sizes(nn.Conv2d(8, 16, 3, padding=1), dynamic)


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


def _in_parallel(rank: int, folder: Path, all_saved: Barrier, sharded: bool) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=4)
    whole = torch.randn(16, 8, 12, 12)
    if sharded:
        parallel: nn.Module = fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    else:
        parallel = DistributedDataParallel(layer)
    parallel(whole[8 * rank : 8 * rank + 8]).square().mean().backward()
    found = [parameter.grad for parameter in layer.parameters()]
    torch.save([grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in found], folder / f"{rank}.pt")
    all_saved.wait()
    # The process group is not destroyed: its destructor holds the GIL while it joins a thread that may be waiting for
    # the GIL (https://github.com/pytorch/pytorch/issues/56297). One run in five hung.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("sharded", [False, True], ids=["DistributedDataParallel", "fully_shard"])
def test_gradients_of_two_processes_are_those_of_the_whole_batch(tmp_path: Path, sharded: bool) -> None:
    all_saved = mp.get_context("spawn").Barrier(2)
    mp.start_processes(_in_parallel, (tmp_path, all_saved, sharded), nprocs=2, start_method="spawn")
    torch.manual_seed(0)
    layer = DynamicConv2d(8, 16, 3, padding=1, experts=4)
    layer(torch.randn(16, 8, 12, 12)).square().mean().backward()

    for rank in range(2):
        for found, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), layer.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def layers() -> list[DynamicConv]:
    """One layer of each kind, whose routing differs between samples."""
    torch.manual_seed(0)
    made: list[DynamicConv] = [kind(4, 8, 3, padding=1, experts=3) for kind in LAYERS]
    for layer in made:
        nn.init.normal_(layer.router.linear.weight)
    return made


def input_of(layer: DynamicConv, samples: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(samples, 4, *(6,) * layer.dims, dtype=dtype)


def test_memory_is_shared_between_processes() -> None:
    for layer in layers():
        layer.share_memory()
        assert all(tensor.is_shared() for tensor in layer.state_dict(keep_vars=True).values())
        assert layer(input_of(layer)).shape[1] == 8


def test_finite_differences_agree_with_first_and_second_derivatives() -> None:
    for layer in layers()[:2]:
        small = type(layer)(2, 2, 3, padding=1, experts=2).double()
        nn.init.normal_(small.router.linear.weight, std=0.3)
        names, tensors = zip(*small.named_parameters(), strict=True)
        x = torch.randn(2, 2, *(4,) * layer.dims, dtype=torch.float64, requires_grad=True)

        def function(x: torch.Tensor, *tensors: torch.Tensor, small: DynamicConv = small) -> torch.Tensor:
            return functional_call(small, dict(zip(names, tensors, strict=True)), (x,))  # noqa: B023

        assert torch.autograd.gradcheck(function, (x, *tensors))
        assert torch.autograd.gradgradcheck(function, (x, *tensors))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_jacobians_in_either_mode_agree() -> None:
    for layer in layers():
        x = input_of(layer, 1)
        torch.testing.assert_close(jacrev(layer)(x), jacfwd(layer)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_narrow_type_and_routes_in_float32(dtype: torch.dtype) -> None:
    for layer in layers():
        x = input_of(layer)
        with torch.autocast("cpu", dtype):
            out = layer(x)
            out.float().sum().backward()
            assert layer.routing_weights(x).dtype == torch.float32
        assert out.dtype == dtype and layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
        torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_torch_export_leaves_the_batch_size_free(samples: int) -> None:
    for layer in layers():
        x = input_of(layer, 16)
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
        other = input_of(layer, samples)
        torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-4, atol=1e-5)


def test_parametrizations_and_pruning_of_the_experts() -> None:
    for layer in layers():
        x = input_of(layer)
        expected = layer(x)
        parametrizations.weight_norm(layer, "weight", dim=1)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        layer(x).sum().backward()
    for layer in layers():
        parametrizations.spectral_norm(layer, "weight")
        x = input_of(layer)
        assert layer(x).shape == (len(x), 8, *x.shape[2:])
    for layer in layers():
        prune.l1_unstructured(layer, "weight", 0.5)
        assert layer.weight.eq(0).float().mean().item() == pytest.approx(0.5, abs=0.01)
        layer(input_of(layer)).sum().backward()
        assert layer.weight_orig.grad is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own: it moves to torchao
def test_dynamic_quantisation_of_a_net_leaves_the_layer_working() -> None:
    from torch.ao.quantization import quantize_dynamic

    for layer in layers():
        x = input_of(layer)
        quantised = quantize_dynamic(nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)).eval(), {nn.Linear})
        torch.testing.assert_close(quantised[0](x), layer(x), rtol=0.1, atol=0.1)


def test_data_parallel_without_a_gpu_is_the_layer() -> None:
    for layer in layers():
        x = input_of(layer)
        torch.testing.assert_close(nn.DataParallel(layer)(x), layer(x))
