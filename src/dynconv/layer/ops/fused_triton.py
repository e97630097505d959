"""Algorithm `fused` on a GPU, in Triton: experts mixed tile by tile, in registers, where the tile is used.

No kernel mixed for an image is ever written to memory: a program mixes a tile of it from the experts, K x its size,
which stay in the second-level cache while all images use them, and multiplies it there by `tl.dot`. Sums are in
float32, also for float16 and bfloat16 tensors; float32 is multiplied as float32, not tf32. Nothing is added by atomics:
the results have the same bits every time.

    y, dx     a program owns a tile of an image's map, PIXELS x TARGETS channels, and walks over taps and channels.
              dx is the convolution of dy with the kernel turned round; with stride 2 its pixels fall into 2 x 2 phases
              (row and column modulo 2), each reached by its own taps only, so no tap is multiplied by zeros.
    dw, da    a program owns a tile of the experts, one tap, INS x OUTS channels, EXPERTS of the K, and walks over the
              images: G = x' dy of one image, the gradient of its mixed kernel, is made in registers, and while it is
              there dw_k += a_k G and da_k = <G, w_k>. Images are split among programs where tiles are few. The parts
              of dw, one per split, and of da, one per tile (K floats for each image and 1024 weights), are added up
              afterwards, in a fixed order.

`tl.dot` needs 16 or more in each dimension, so tiles have powers of two of 16 and more, and masks fill them up. Tile
sizes are fixed by shape, not tuned: nothing here has been timed.

Layouts, last index contiguous: x [N,H,W,C], y [N,R,S,O], routing [N,K] in float32, experts [K,taps,C,O] for y, dw and
da, [K,taps,O,C] for dx.

Triton is no dependency: CUDA builds of torch bring it. Import this module only where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _convolve(
    source, experts, routing, target,
    images, source_height, source_width, source_channels, target_height, target_width, target_channels,
    K: tl.constexpr, SIDE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, TO_INPUT: tl.constexpr,
    PIXELS: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """y from x, or with TO_INPUT dx from dy: target [N,h,w,targets], source [N,h,w,sources], experts
    [K,taps,sources,targets]. One program: PIXELS of one image and phase, TARGETS channels."""
    PHASES: tl.constexpr = STRIDE if TO_INPUT else 1
    columns = tl.cdiv(target_width, PHASES)
    pixel_tiles = tl.cdiv(columns * tl.cdiv(target_height, PHASES), PIXELS)
    # Channels vary slowest: programs that run at a time use one slice of the experts, which the cache then holds.
    program = tl.program_id(0)
    pixel = program % pixel_tiles * PIXELS + tl.arange(0, PIXELS)
    phase = program // pixel_tiles % (PHASES * PHASES)
    program = program // (pixel_tiles * PHASES * PHASES)
    image = program % images
    to = program // images * TARGETS + tl.arange(0, TARGETS)

    row = pixel // columns * PHASES + phase // PHASES
    column = pixel % columns * PHASES + phase % PHASES
    inside = (row < target_height) & (column < target_width)
    # The phase's taps: those that lead from a pixel of the source to one of the phase.
    first_i = (phase // PHASES + PADDING) % PHASES
    first_j = (phase % PHASES + PADDING) % PHASES
    taps_i = tl.cdiv(SIDE - first_i, PHASES)
    taps_j = tl.cdiv(SIDE - first_j, PHASES)

    source += image.to(tl.int64) * source_height * source_width * source_channels
    target += image.to(tl.int64) * target_height * target_width * target_channels
    blocks = tl.cdiv(source_channels, SOURCES)
    sums = tl.zeros((PIXELS, TARGETS), tl.float32)
    for step in range(taps_i * taps_j * blocks):  # one loop, not three: it can be pipelined
        i = first_i + step // blocks // taps_j * PHASES
        j = first_j + step // blocks % taps_j * PHASES
        come = step % blocks * SOURCES + tl.arange(0, SOURCES)
        if TO_INPUT:  # divisible, by the choice of taps
            from_row = (row + PADDING - i) // STRIDE
            from_column = (column + PADDING - j) // STRIDE
        else:
            from_row = row * STRIDE + i - PADDING
            from_column = column * STRIDE + j - PADDING
        there = (
            inside & (from_row >= 0) & (from_row < source_height) & (from_column >= 0) & (from_column < source_width)
        )
        values = tl.load(
            source + (from_row * source_width + from_column)[:, None] * source_channels + come[None, :],
            mask=there[:, None] & (come < source_channels)[None, :],
            other=0.0,
        )
        expert = experts + ((i * SIDE + j) * source_channels + come)[:, None] * target_channels + to[None, :]
        mixed = tl.zeros((SOURCES, TARGETS), tl.float32)
        for k in tl.static_range(K):
            held = (come < source_channels)[:, None] & (to < target_channels)[None, :]
            mixed += tl.load(routing + image * K + k) * tl.load(expert, mask=held, other=0.0).to(tl.float32)
            expert += SIDE * SIDE * source_channels * target_channels
        sums = tl.dot(values, mixed.to(values.dtype), sums, input_precision="ieee")
    tl.store(
        target + (row * target_width + column)[:, None] * target_channels + to[None, :],
        sums.to(target.dtype.element_ty),
        mask=inside[:, None] & (to < target_channels)[None, :],
    )


@triton.jit
def _correlate(
    x, grad, experts, routing, grad_experts, grad_routing,
    images, split_images, height, width, in_channels, out_height, out_width, out_channels,
    K: tl.constexpr, SIDE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    EXPERTS: tl.constexpr, PIXELS: tl.constexpr, INS: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """Parts of dw, grad_experts [splits,K,taps,C,O], and of da, grad_routing [tiles,N,K], both float32. One program:
    one tap, INS x OUTS channels, EXPERTS experts, split_images images. All chunks of EXPERTS make the same G."""
    TAPS: tl.constexpr = SIDE * SIDE
    CHUNKS: tl.constexpr = (K + EXPERTS - 1) // EXPERTS
    out_tiles = tl.cdiv(out_channels, OUTS)
    tiles = TAPS * out_tiles * tl.cdiv(in_channels, INS)
    # Images vary slowest: programs that run at a time read the same ones.
    program = tl.program_id(0)
    tile = program % tiles
    k = program // tiles % CHUNKS * EXPERTS + tl.arange(0, EXPERTS)
    split = program // (tiles * CHUNKS)
    tap = tile % TAPS
    o = tile // TAPS % out_tiles * OUTS + tl.arange(0, OUTS)
    c = tile // TAPS // out_tiles * INS + tl.arange(0, INS)

    bank = TAPS * in_channels * out_channels
    place = (tap * in_channels + c)[None, :, None] * out_channels + o[None, None, :]
    place = k.to(tl.int64)[:, None, None] * bank + place
    held = (k < K)[:, None, None] & (c < in_channels)[None, :, None] & (o < out_channels)[None, None, :]
    weights = tl.load(experts + place, mask=held, other=0.0).to(tl.float32)
    sums = tl.zeros((EXPERTS, INS, OUTS), tl.float32)
    for image in range(split * split_images, tl.minimum((split + 1) * split_images, images)):
        x_image = x + tl.cast(image, tl.int64) * height * width * in_channels
        grad_image = grad + tl.cast(image, tl.int64) * out_height * out_width * out_channels
        g = tl.zeros((INS, OUTS), tl.float32)
        for start in range(0, out_height * out_width, PIXELS):
            pixel = start + tl.arange(0, PIXELS)
            inside = pixel < out_height * out_width
            row = pixel // out_width * STRIDE + tap // SIDE - PADDING
            column = pixel % out_width * STRIDE + tap % SIDE - PADDING
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            values = tl.load(
                x_image + (row * width + column)[:, None] * in_channels + c[None, :],
                mask=there[:, None] & (c < in_channels)[None, :],
                other=0.0,
            )
            grads = tl.load(
                grad_image + pixel[:, None] * out_channels + o[None, :],
                mask=inside[:, None] & (o < out_channels)[None, :],
                other=0.0,
            )
            g = tl.dot(tl.trans(values), grads, g, input_precision="ieee")
        a = tl.load(routing + image * K + k, mask=k < K, other=0.0)
        sums += a[:, None, None] * g[None, :, :]
        dots = tl.sum(tl.sum(weights * g[None, :, :], 2), 1)
        tl.store(grad_routing + (tl.cast(tile, tl.int64) * images + image) * K + k, dots, mask=k < K)
    tl.store(grad_experts + tl.cast(split, tl.int64) * K * bank + place, sums, mask=held)


def forward(x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int) -> Tensor:
    """sum_k routing_NK conv2d(x_NCHW, weight_KOCHW, stride, padding) -> [N,O,H',W'], channels_last."""
    height, width = ((side + 2 * padding - weight.shape[3]) // stride + 1 for side in x.shape[2:])
    out = x.new_empty(x.shape[0], height, width, weight.shape[1]).permute(0, 3, 1, 2)
    experts = weight.permute(0, 3, 4, 2, 1).contiguous()
    _launch_convolve(x, experts, routing, out, stride, padding, to_input=False)
    return out


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, routing: Tensor, stride: int, padding: int, *, input_grad: bool,
    bank_grad: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of `forward` for x, and for weight and routing; None each where they are not asked for."""
    grad_x = None
    if input_grad:
        grad_x = torch.empty_like(x)
        turned = weight.permute(0, 3, 4, 1, 2).contiguous()
        _launch_convolve(grad, turned, routing, grad_x, stride, padding, to_input=True)
    if not bank_grad:
        return grad_x, None, None
    return grad_x, *_correlation(x, grad, weight.permute(0, 3, 4, 2, 1).contiguous(), routing, stride, padding)


def _launch_convolve(
    source: Tensor, experts: Tensor, routing: Tensor, target: Tensor, stride: int, padding: int, to_input: bool
) -> None:
    images, channels, height, width = target.shape
    count, side = experts.shape[:2]
    phases = stride if to_input else 1
    pixels = triton.cdiv(height, phases) * triton.cdiv(width, phases)
    wide = source.element_size() == 4  # float32 is multiplied without tensor cores, whose larger tiles would not fit
    block, targets = _block(pixels, 64 if wide else 128), _block(channels, 64)
    sources = _block(source.shape[1], 16 if wide else 32)
    # How many steps' tiles are loaded at a time, into shared memory: 99 KiB on the smaller GPUs.
    step_bytes = (count * sources * targets + block * sources) * source.element_size()
    programs = triton.cdiv(pixels, block) * phases**2 * images * triton.cdiv(channels, targets)
    if not programs:
        return
    with torch.cuda.device_of(source):
        _convolve[programs,](
            source, experts, routing, target,
            images, *source.shape[2:], source.shape[1], height, width, channels,
            K=count, SIDE=side, STRIDE=stride, PADDING=padding, TO_INPUT=to_input,
            PIXELS=block, SOURCES=sources, TARGETS=targets, num_stages=min(3, max(1, 81920 // step_bytes)),
        )  # fmt: skip


_PROGRAMS = 512
"""To split images for: a few for each multiprocessor. Parts of dw take K tiles of 4 KiB for each of these programs at
most, or as much as the experts in float32 where those have more tiles."""


def _correlation(
    x: Tensor, grad: Tensor, experts: Tensor, routing: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    images, in_channels, height, width = x.shape
    out_channels, out_height, out_width = grad.shape[1:]
    count, side = experts.shape[:2]
    ins, outs = _block(in_channels, 32), _block(out_channels, 32)
    together = min(8, triton.next_power_of_2(count))  # K sums of a tile and K tiles of experts have to fit in registers
    tiles = side**2 * triton.cdiv(in_channels, ins) * triton.cdiv(out_channels, outs)
    programs = tiles * triton.cdiv(count, together)
    split_images = max(1, triton.cdiv(images, max(1, _PROGRAMS // programs)))
    splits = triton.cdiv(images, split_images)
    parts = routing.new_empty(splits, *experts.shape)
    routing_parts = routing.new_empty(tiles, images, count)
    if images:
        with torch.cuda.device_of(x):
            _correlate[programs * splits,](
                x, grad, experts, routing, parts, routing_parts,
                images, split_images, height, width, in_channels, out_height, out_width, out_channels,
                K=count, SIDE=side, STRIDE=stride, PADDING=padding,
                EXPERTS=together, PIXELS=_block(out_height * out_width, 64), INS=ins, OUTS=outs,
            )  # fmt: skip
    grad_weight = parts.sum(0).to(experts.dtype).permute(0, 4, 3, 1, 2).contiguous()
    return grad_weight, routing_parts.sum(0)


def _block(size: int, most: int) -> int:
    """A tile's side: a power of two from 16, what `tl.dot` takes at least, to most."""
    return min(most, max(16, triton.next_power_of_2(size)))
