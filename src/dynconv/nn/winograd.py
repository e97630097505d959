"""The CPU operator behind algorithm `winograd`: built by the C++ compiler at first use, cached, registered with torch.

`winograd.cpp` explains the algorithm. Without a compiler everything works, by the other algorithms; `status()` says
which it is. x_NCHW float32, weight_KOCHW with 3x3 kernels, routing_NK; stride 1, one group, channels in multiples of 8.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.nn.geometry import Geometry

_SOURCE = Path(__file__).with_name("winograd.cpp")
# Not -ffast-math: linking with it flushes denormals to zero in the whole process.
_FLAGS = "-std=c++17 -O2 -march=native -fno-math-errno -fno-trapping-math -fno-signed-zeros -fopenmp -fPIC -shared"


class _Unavailable(Exception):
    pass


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynconv"


def _build() -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise _Unavailable("no C++ compiler found (install g++, or name one in CXX)")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    # -march=native: a cache shared by several machines must not hand one the other's instructions.
    key = "\n".join((version, _FLAGS, torch.backends.cpu.get_cpu_capability(), platform.processor(), _cpu_flags()))
    digest = hashlib.sha256(_SOURCE.read_bytes() + key.encode()).hexdigest()[:16]
    target = _cache_directory() / f"winograd-{digest}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            command = [compiler, *_FLAGS.split(), str(_SOURCE), "-o", str(built)]
            # Nobody expects the first forward pass to take that long.
            print("dynconv: compiling its Winograd operator, once, about 20 seconds", file=sys.stderr, flush=True)
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                first = (result.stderr.strip().splitlines() or ["no message"])[0]
                raise _Unavailable(f"{compiler} could not compile it: {first}")
            built.replace(target)
    except OSError as error:
        raise _Unavailable(f"cannot write the cache {target.parent}: {error.strerror}") from error
    return target


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The built library, or the reason why there is none."""
    try:
        library = ctypes.CDLL(str(_build()))
    except (_Unavailable, OSError) as reason:
        return str(reason)
    for name, pointers in (("forward", 4), ("backward", 7)):
        function = getattr(library, f"dynconv_winograd_{name}")
        function.argtypes = [ctypes.c_int64] * 8 + [ctypes.c_void_p] * pointers
        function.restype = ctypes.c_int
    return library


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether the operator can be used here; builds it if that has not been done yet (about 20 seconds)."""
    return not isinstance(_load(), str)


def status() -> str:
    """One line for people: that the operator is live, or why not."""
    library = _load()
    return f"not available: {library}" if isinstance(library, str) else "available"


DOMAIN = (
    "needs float32 on a CPU, 3x3 kernels, stride, dilation and groups 1, padding up to 2 and channels in multiples of 8"
)


def applies(geometry: Geometry) -> bool:
    """Whether this convolution is one that the operator computes: what DOMAIN says."""
    g = geometry
    return (
        g.device == "cpu"
        and g.dtype == torch.float32
        and g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and g.padding in ((0, 0), (1, 1), (2, 2))
        and g.in_channels % 8 == g.out_channels % 8 == 0
        and min(g.out_height, g.out_width) >= 1
    )


def best_tile(geometry: Geometry) -> tuple[int, float]:
    """The M of F(M, 3) expected to be fastest, 2 to 7, and its cost: multiplications of a large matrix product.

    Larger tiles need fewer multiplications, unless they stick out over the border. The two ways of mixing are those
    of winograd.cpp; 43 is what it costs to transform a number there and back, measured on a CPU with AVX2. Tiles of 7
    round worst (1.4e-5 of the output's standard deviation, 4e-6 for 6, where float32 itself has 3e-7), so they have to
    be faster by a fifth.
    """
    experts, in_channels, out_channels = geometry.experts, geometry.in_channels, geometry.out_channels

    def cost(tile: int) -> float:
        tiles = -(-geometry.out_height // tile) * -(-geometry.out_width // tile)
        forward = min(experts * tiles, tiles + 4 + 2 * experts)
        backward = min(2 * experts * tiles, 2 * tiles + 12 * experts)
        multiply = (forward + backward) / 3 * in_channels * out_channels
        transform = 43 * tiles * (in_channels + out_channels)
        return (tile + 2) ** 2 * (multiply + transform) * (1.2 if tile == 7 else 1)

    best = 2
    for tile in range(3, 8):  # torch.compile does not know min(..., key=...)
        if cost(tile) < cost(best):
            best = tile
    return best, cost(best)


def release_workspace() -> None:
    """Gives back the memory that the operator keeps for its next call, as much as the largest call needed."""
    library = _load()
    if not isinstance(library, str):
        library.dynconv_winograd_release()


def _call(name: str, tile: int, x: Tensor, weight: Tensor, padding: int, *arrays: Tensor | None) -> None:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"the winograd operator is not available: {library}")
    batch, in_channels, height, width = x.shape
    experts, out_channels = weight.shape[:2]
    pointers = [None if array is None else array.data_ptr() for array in arrays]
    shape = (tile, batch, height, width, in_channels, out_channels, experts, padding)
    if getattr(library, f"dynconv_winograd_{name}")(*shape, *pointers):
        raise MemoryError(f"winograd {name}: not enough memory for its work space")


def _nhwc(x: Tensor) -> Tensor:
    """x with channels contiguous; `contiguous` alone lets pass a batch of one or a 1x1 map with other strides."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


@torch.library.custom_op("dynconv::winograd", mutates_args=())
def winograd(x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int) -> Tensor:
    """sum_k routing_NK conv2d(x_NCHW, weight_KOC33, padding) -> [N,O,H',W'], channels_last; tile is 2 to 7."""
    x, weight, routing = _nhwc(x), weight.contiguous(), routing.contiguous()
    out = _output(x, weight, padding)
    _call("forward", tile, x, weight, padding, x, weight, routing, out)
    return out


def _output(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    return x.new_empty(x.shape[0], height, width, weight.shape[1]).permute(0, 3, 1, 2)


@winograd.register_fake
def _(x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int) -> Tensor:
    return _output(x, weight, padding)


@torch.library.custom_op("dynconv::winograd_backward", mutates_args=())
def winograd_backward(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `winograd` for x (an empty tensor unless input_grad), weight and routing."""
    x, grad, weight, routing = _nhwc(x), _nhwc(grad), weight.contiguous(), routing.contiguous()
    grad_x = torch.empty_like(x) if input_grad else None
    grad_weight, grad_routing = torch.empty_like(weight), torch.empty_like(routing)
    _call("backward", tile, x, weight, padding, x, weight, routing, grad, grad_x, grad_weight, grad_routing)
    return x.new_empty(0) if grad_x is None else grad_x, grad_weight, grad_routing


@winograd_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, padding: int, tile: int, input_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = _nhwc(torch.empty_like(x)) if input_grad else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape), routing.new_empty(routing.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, routing, ctx.padding, ctx.tile = inputs
    ctx.save_for_backward(x, weight, routing)


def _differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, padding: int, needed: Sequence[bool]
) -> Iterator[Tensor | None]:
    n, c, height, width = x.shape
    mixed = (routing @ weight.flatten(1)).view(n * weight.shape[1], c, 3, 3)
    out = F.conv2d(x.reshape(1, n * c, height, width), mixed, padding=padding, groups=n).view(grad.shape)
    inputs = [tensor for tensor, wanted in zip((x, weight, routing), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return (next(found) if wanted else None for wanted in needed)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, weight, routing = ctx.saved_tensors
    if torch.is_grad_enabled() and len(x):  # create_graph=True: second derivatives come from torch's own operations
        return *_differentiable_backward(grad, x, weight, routing, ctx.padding, ctx.needs_input_grad[:3]), None, None
    input_grad = ctx.needs_input_grad[0]
    grads = winograd_backward(grad, x, weight, routing, ctx.padding, ctx.tile, input_grad)
    return grads[0] if input_grad else None, grads[1], grads[2], None, None


winograd.register_autograd(_backward, setup_context=_setup_context)
