"""Every algorithm against the equation in float64: value, input gradient, expert gradient, routing gradient."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from equation import mixture, relative_error, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import DENSE, GROUPED, needs_operators
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from dynconv.layer.geometry import sizes
from dynconv.layer.mixing import mix_convolutions

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-14, torch.bfloat16: 1e-2}
"""Largest error, relative to the largest sum of the absolute values of the products that make up a result."""


WINOGRAD_TOLERANCE = 5e-5
"""The same for Winograd's, whose larger tiles round worse."""


Case = dict[str, Any]
"""Arguments of a convolution; kernel, stride, padding and dilation one number, or one per dimension."""


THREADS = st.sampled_from([1, 3])
"""The operators share their work among threads, in other ways where there are fewer images."""


@contextmanager
def computing_by(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    groups = draw(st.sampled_from([1, 1, 2]))
    height, width = draw(sides()), draw(sides())
    if draw(st.booleans()):
        width = {**width, **{name: height[name] for name in ("kernel", "stride", "padding", "dilation")}}
        width["size"] = max(width["size"], smallest(width))
    return {
        "n": draw(st.sampled_from([0, 1, 2, 5])),
        "k": draw(st.integers(1, 5)),
        "c": groups * draw(st.sampled_from([1, 3, 4, 8])),
        "o": groups * draw(st.sampled_from([1, 3, 8])),
        "height": height["size"],
        "width": width["size"],
        "groups": groups,
        **{name: (height[name], width[name]) for name in ("kernel", "stride", "padding", "dilation")},
    }


@st.composite
def sides(draw: st.DrawFn) -> dict[str, int]:
    kernel = draw(st.sampled_from([1, 3, 3, 5]))
    side = {
        "kernel": kernel,
        "stride": draw(st.sampled_from([1, 1, 2, 3])),
        "padding": draw(st.integers(0, kernel // 2)),
        "dilation": draw(st.sampled_from([1, 1, 2])),
    }
    return {**side, "size": max(draw(st.integers(1, 13)), smallest(side))}


def smallest(side: dict[str, int]) -> int:
    return side["dilation"] * (side["kernel"] - 1) + 1 - 2 * side["padding"]


def tensors(case: Case, seed: int, bias: bool = True) -> list[Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(case["n"], case["c"], case["height"], case["width"])
    weight = torch.randn(case["k"], case["o"], case["c"] // case["groups"], *sizes(case["kernel"], 2, "kernel"))
    return [x, weight, torch.randn(case["n"], case["k"]), *([torch.randn(case["k"], case["o"])] if bias else [])]


def compare(case: Case, inputs: list[Tensor], algorithm: str) -> None:
    dtype = inputs[0].dtype
    tolerance = TOLERANCE[dtype]
    if dtype == torch.float32 and algorithm in ("winograd", "auto"):
        tolerance = WINOGRAD_TOLERANCE
    geometry = {name: case[name] for name in ("stride", "padding", "dilation", "groups")}
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    given_ = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in inputs]
    expected, found = mixture(*exact, **geometry), mix_convolutions(*given_, **geometry, algorithm=algorithm)
    assert found.shape == expected.shape and found.dtype == dtype
    direction = torch.randn(expected.shape).to(dtype)
    absolute = [tensor.detach().abs().requires_grad_() for tensor in exact]
    for name, ours, theirs, scale in zip(
        ("output", "x", "experts", "routing", "bias"),
        with_gradients(given_[0], given_[1:], found, direction),
        with_gradients(exact[0], exact[1:], expected, direction.double()),
        with_gradients(absolute[0], absolute[1:], mixture(*absolute, **geometry), direction.double().abs()),
        strict=False,
    ):
        assert torch.isfinite(ours).all()
        if scale.numel():
            assert (ours - theirs).abs().max() <= tolerance * scale.max(), name


@pytest.mark.parametrize("algorithm", ["kernel", "input", "output", "unfold", "auto"])
@settings(max_examples=40, deadline=None)
@given(
    case=convolutions(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_equation(
    algorithm: str, case: Case, dtype: torch.dtype, channels_last: bool, seed: int
) -> None:
    inputs = [tensor.to(dtype) for tensor in tensors(case, seed)]
    if channels_last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    compare(case, inputs, algorithm)


@pytest.mark.parametrize("algorithm", ["kernel", "input", "output", "unfold", "auto"])
@pytest.mark.parametrize(("height", "width", "kernel", "stride"), [(13, 3, 3, 2), (15, 2, 3, 3), (15, 4, 5, 2)])
def test_maps_of_one_column_in_bf16(algorithm: str, height: int, width: int, kernel: int, stride: int) -> None:
    case = {"n": 2, "k": 2, "c": 24, "o": 8, "height": height, "width": width, "kernel": kernel, "stride": stride}
    case |= {"padding": int(width < kernel), "dilation": 1, "groups": 1}

    compare(case, [tensor.bfloat16() for tensor in tensors(case, seed=0)], algorithm)


@pytest.mark.parametrize("algorithm", ["kernel", "input", "output", "unfold", "auto"])
@settings(max_examples=20, deadline=None)
@given(
    dims=st.sampled_from([1, 3]),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sequences_and_volumes_agree_with_the_equation(
    algorithm: str, dims: int, data: st.DataObject, dtype: torch.dtype, last: bool, seed: int
) -> None:
    axes = [data.draw(sides()) for _ in range(dims)]
    groups = data.draw(st.sampled_from([1, 1, 2]))
    n, k = data.draw(st.sampled_from([0, 1, 3])), data.draw(st.integers(1, 3))
    c, o = (groups * data.draw(st.sampled_from([1, 3])) for _ in range(2))
    torch.manual_seed(seed)
    x = torch.randn(n, c, *(axis["size"] for axis in axes), dtype=dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight = torch.randn(k, o, c // groups, *(axis["kernel"] for axis in axes), dtype=dtype)
    inputs = [x, weight, torch.randn(n, k, dtype=dtype), torch.randn(k, o, dtype=dtype)]
    case: Case = {name: tuple(axis[name] for axis in axes) for name in ("stride", "padding", "dilation")}
    case["groups"] = groups
    if algorithm == "unfold" and dims == 3:
        with pytest.raises(ValueError, match="'unfold' needs one or two spatial dimensions"):
            mix_convolutions(*inputs, **case, algorithm=algorithm)
    else:
        compare(case, inputs, algorithm)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 3, 17]), k=st.integers(1, 5), c=st.sampled_from([8, 24, 40, 64]),
    o=st.sampled_from([8, 16, 72]), height=st.integers(1, 17), width=st.integers(1, 17), padding=st.integers(0, 2),
    channels_last=st.booleans(), seed=st.integers(0, 99), threads=THREADS,
)  # fmt: skip
def test_winograd_agrees_with_the_equation(
    n: int, k: int, c: int, o: int, height: int, width: int, padding: int, channels_last: bool, seed: int, threads: int
) -> None:
    needs_operators()
    height, width = max(height, 3 - 2 * padding), max(width, 3 - 2 * padding)
    case = {"n": n, "k": k, "c": c, "o": o, "height": height, "width": width}
    case |= {"kernel": 3, "stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    inputs = tensors(case, seed)
    if channels_last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    with computing_by(threads):
        compare(case, inputs, "winograd")


@settings(max_examples=120, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 3, 17]), k=st.integers(1, 5), groups=st.sampled_from([1, 1, 2, 3, 9, 32]),
    c=st.sampled_from([1, 3, 4, 8, 24, 33, 64]), o=st.sampled_from([1, 4, 5, 16, 40, 72]),
    height=st.integers(1, 17), width=st.integers(1, 33),
    kernel=st.sampled_from([1, 3, 3]), padding=st.integers(0, 2), stride=st.sampled_from([1, 1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), layout=st.sampled_from(["first", "last", "strided"]),
    seed=st.integers(0, 99), threads=THREADS,
)  # fmt: skip
def test_fused_agrees_with_the_equation(
    n: int, k: int, groups: int, c: int, o: int, height: int, width: int, kernel: int, padding: int, stride: int,
    dtype: torch.dtype, layout: str, seed: int, threads: int,
) -> None:  # fmt: skip
    needs_operators()
    c, o = (groups * min(channels, 144 // groups) for channels in (c, o))
    padding = min(padding, kernel - 1)
    height, width = max(height, kernel - 2 * padding), max(width, kernel - 2 * padding)
    case = {"n": n, "k": k, "c": c, "o": o, "height": height, "width": width, "kernel": kernel, "stride": stride}
    case |= {"padding": padding, "dilation": 1, "groups": groups}
    inputs = [tensor.to(dtype) for tensor in tensors(case, seed)]
    if layout == "last":
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        inputs[0] = torch.stack((inputs[0], inputs[0]), dim=-1)[..., 0]
    with computing_by(threads):
        compare(case, inputs, "fused")


@settings(max_examples=80, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 3, 17]), k=st.integers(1, 5), c=st.sampled_from([1, 3, 8, 16, 24, 33, 64]),
    height=sides(), width=sides(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    layout=st.sampled_from(["first", "last", "strided"]), algorithm=st.sampled_from(["depthwise", "auto"]),
    seed=st.integers(0, 99), threads=THREADS,
)  # fmt: skip
def test_depthwise_agrees_with_the_equation(
    n: int, k: int, c: int, height: dict[str, int], width: dict[str, int], dtype: torch.dtype, layout: str,
    algorithm: str, seed: int, threads: int,
) -> None:  # fmt: skip
    needs_operators()
    case: Case = {"n": n, "k": k, "c": c, "o": c, "groups": c, "height": height["size"], "width": width["size"]}
    case |= {name: (height[name], width[name]) for name in ("kernel", "stride", "padding", "dilation")}
    inputs = [tensor.to(dtype) for tensor in tensors(case, seed)]
    if layout == "last":
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        inputs[0] = torch.stack((inputs[0], inputs[0]), dim=-1)[..., 0]
    with computing_by(threads):
        compare(case, inputs, algorithm)


@pytest.mark.parametrize("algorithm", ["kernel", "input", "output", "unfold", "auto"])
def test_the_gradient_of_a_tap_that_meets_only_padding_is_zero(algorithm: str) -> None:
    """oneDNN leaves it as the memory was, in bfloat16."""
    torch.manual_seed(0)
    for channels, batch in ((8, 1), (16, 5)):
        x = torch.randn(batch, channels, 1, 2, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(3, 16, channels, 3, 3, dtype=torch.bfloat16, requires_grad=True)
        a = torch.randn(batch, 3, dtype=torch.bfloat16)
        out = mix_convolutions(x, weight, a, stride=3, padding=1, algorithm=algorithm)
        freed = [torch.full((size,), 1e21) for size in (2**power for power in range(4, 17)) for _ in range(20)]
        del freed
        (gradient,) = torch.autograd.grad(out.sum(), weight)
        assert gradient[..., 1, 1].abs().max() > 0
        assert gradient[..., [0, 2], :].eq(0).all() and gradient[..., 0].eq(0).all()


EXTREMES = {
    "one-hot": torch.eye(3)[:2],
    "negative": torch.tensor([[-1.0, -2.0, 0.5], [3.0, -4.0, 0.0]]),
    "zero": torch.zeros(2, 3),
}


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_routing_weights(algorithm: str, name: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    case = dict(n=2, k=3, c=8, o=8, height=12, width=12, kernel=3, stride=1, padding=1, dilation=1, groups=1)
    inputs = tensors(case, 0, bias=False)
    inputs[2] = EXTREMES[name]
    compare(case, inputs, algorithm)


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
def test_an_image_does_not_depend_on_its_batch_mates(algorithm: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    case = dict(n=5, k=3, c=16, o=16, height=9, width=9, kernel=3, stride=1, padding=1, dilation=1, groups=1)
    x, weight, a, bias = tensors(case, 1)
    others = x + torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])[:, None, None, None]

    together = mix_convolutions(x, weight, a, bias, padding=1, algorithm=algorithm)
    with_others = mix_convolutions(others, weight, a, bias, padding=1, algorithm=algorithm)

    assert torch.equal(together[0], with_others[0])
    for i in range(5):
        alone = mix_convolutions(x[i : i + 1], weight, a[i : i + 1], bias, padding=1, algorithm=algorithm)
        assert (together[i : i + 1] - alone).abs().max() <= WINOGRAD_TOLERANCE * together.abs().max()


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 8, 12, 12), (5, 8, 12, 12), (5, 8, 1, 1), (5, 8, 12, 1)])
def test_the_output_has_the_layout_of_the_input(
    algorithm: str, layout: torch.memory_format, shape: tuple[int, ...]
) -> None:
    """As torch's convolutions: `view` works where it did, and channels_last stays fast."""
    if algorithm in ("fused", "winograd"):
        needs_operators()
    x = torch.randn(shape).to(memory_format=layout).requires_grad_()
    weight = torch.randn(3, 16, 8, 3, 3, requires_grad=True)
    for padding in (1, 2):
        out = mix_convolutions(x, weight, torch.rand(shape[0], 3), padding=padding, algorithm=algorithm)
        expected = torch.nn.functional.conv2d(x, weight[0], padding=padding)
        out.sum().backward()

        assert out.is_contiguous(memory_format=layout) and expected.is_contiguous(memory_format=layout)
        assert x.grad is not None and x.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
def test_the_flop_counter_knows_every_algorithm(algorithm: str) -> None:
    """At least the convolution, and for what mixes kernels, exactly that and the mixing."""
    if algorithm in ("fused", "winograd"):
        needs_operators()
    n, k, c, o, side = 4, 3, 8, 16, 12
    for groups in (1,) if algorithm in ("pixel", "winograd") else (1, 2):
        x, weight = torch.randn(n, c, side, side), torch.randn(k, o, c // groups, 3, 3, requires_grad=True)
        convolution, mixing = 2 * n * (c // groups) * o * 9 * side**2, 2 * n * k * (c // groups) * o * 9
        with FlopCounterMode(display=False) as forward:
            out = mix_convolutions(x, weight, torch.rand(n, k), padding=1, groups=groups, algorithm=algorithm)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()

        assert forward.get_total_flops() >= convolution
        if algorithm in ("kernel", "unfold", "fused", "winograd"):
            assert forward.get_total_flops() == convolution + mixing
        assert backward.get_total_flops() >= convolution


@pytest.mark.parametrize(("algorithm", "groups"), GROUPED)
@pytest.mark.parametrize(("experts", "side"), [(1, 12), (2, 12), (5, 12), (5, 3), (2, 5)])
def test_the_operators_compute_only_the_gradients_that_are_asked_for(
    algorithm: str, groups: int, experts: int, side: int
) -> None:
    """Frozen experts and routing cost nothing; the input's gradient is the same."""
    needs_operators(algorithm)
    torch.manual_seed(0)
    channels, out_channels = 8, 8 if algorithm == "depthwise" else 16
    weight = torch.randn(experts, out_channels, channels // groups, 3, 3)
    x, a = torch.randn(3, channels, side, side), torch.randn(3, experts)
    direction = torch.randn(3, out_channels, side, side)
    counted = {}
    for needed in ((0, 1, 2), (0,), (1,), (2,), (0, 2)):
        inputs = [tensor.clone().requires_grad_(i in needed) for i, tensor in enumerate((x, weight, a))]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        out = mix_convolutions(*inputs, padding=1, groups=groups, algorithm=algorithm)
        with FlopCounterMode(display=False) as counter:
            found = torch.autograd.grad(out, [inputs[i] for i in needed], direction)
        counted[needed] = counter.get_total_flops()
        expected = torch.autograd.grad(mixture(*exact, padding=1, groups=groups), exact, direction.double())
        for i, gradient in zip(needed, found, strict=True):
            assert relative_error(gradient, expected[i]) < 2e-4

    convolution, mixing = 2 * direction.numel() * weight[0, 0].numel(), 2 * a.numel() * weight[0].numel()
    assert counted[0,] == convolution
    assert counted[1,] == counted[2,] == convolution + 2 * mixing
    assert counted[0, 1, 2] == counted[0, 2] == 2 * convolution + 2 * mixing


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
def test_inputs_that_overlap_in_memory_are_read_as_what_they_are(algorithm: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    torch.manual_seed(0)
    row = torch.randn(8 * 14 + 200)
    x = row.as_strided((2, 8, 12, 12), (7, 14, 1, 1))  # windows that slide over one row
    weight = torch.randn(1, 16, 8, 3, 3).expand(3, -1, -1, -1, -1)  # strides of zero
    a = torch.randn(2, 1).expand(2, 3)
    found = mix_convolutions(x, weight, a, padding=1, algorithm=algorithm)
    expected = mixture(*(tensor.double() for tensor in (x, weight, a)), padding=1)  # type: ignore[call-arg]

    assert relative_error(found, expected) < WINOGRAD_TOLERANCE


MISUSE = {
    "double routing": (lambda x, w, a: (x, w, a.double()), "float32 routing"),
    "double input": (lambda x, w, a: (x.double(), w.double(), a), "needs float32"),
    "mixed types": (lambda x, w, a: (x.bfloat16(), w, a), "of one type"),
    "channels": (lambda x, w, a: (x[:, :4], w, a), "shapes do not match"),
    "images": (lambda x, w, a: (x, w, a[:1]), "shapes do not match"),
    "dimensions": (lambda x, w, a: (x[0], w, a), r"needs x \[N, C, H, W\]"),
    "kernel": (lambda x, w, a: (x, w[..., :2], a), "kernels"),
    "outputs of groups": (lambda x, w, a: (x, w[:, :7, :4], a), "needs float32"),
    "no groups": (lambda x, w, a: (x[:, :0], w, a), "needs float32"),
    "smaller than the kernel": (lambda x, w, a: (x[..., :0, :0], w, a), "needs float32"),
}


@pytest.mark.parametrize("name", MISUSE)
@pytest.mark.parametrize("operator", ["fused", "winograd"])
def test_the_operators_check_what_they_are_given(operator: str, name: str) -> None:
    """By torch.ops as well, where nothing else stands before them."""
    needs_operators(operator)
    change, reason = MISUSE[name]
    x, weight, a = torch.randn(2, 8, 6, 6), torch.randn(3, 8, 8, 3, 3), torch.randn(2, 3)
    integers = {"fused": (1, 0), "winograd": (0, 4)}[operator]
    out = getattr(torch.ops.dynconv, operator)(x, weight, a, *integers)
    with pytest.raises((ValueError, RuntimeError), match=f"dynconv::{operator}: .*{reason}"):
        getattr(torch.ops.dynconv, operator)(*change(x, weight, a), *integers)
    with pytest.raises((ValueError, RuntimeError), match=f"dynconv::{operator}.*: .*{reason}"):
        getattr(torch.ops.dynconv, f"{operator}_backward")(out, *change(x, weight, a), *integers, True, True)
    for wrong in (out.double(), out[:1], out[..., 1:]):
        with pytest.raises(ValueError, match="grad must be"):
            getattr(torch.ops.dynconv, f"{operator}_backward")(wrong, x, weight, a, *integers, True, True)


def test_the_operators_refuse_integers_outside_their_domain() -> None:
    needs_operators()
    x, weight, a = torch.randn(2, 8, 6, 6), torch.randn(3, 8, 8, 3, 3), torch.randn(2, 3)
    for operator, integers in (("fused", (3, 0)), ("fused", (1, 3)), ("winograd", (0, 9)), ("winograd", (5, 4))):
        with pytest.raises(ValueError, match=f"dynconv::{operator}: "):
            getattr(torch.ops.dynconv, operator)(x, weight, a, *integers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_where_the_equation_sends_it(value: float) -> None:
    """winograd spreads it over a tile of the output, as every Winograd convolution does; never less far.

    Without padding: whether zeros that pad a map are multiplied is not the equation's.
    """
    needs_operators()
    torch.manual_seed(0)
    for place, groups in itertools.product(range(3), (1, 4)):
        inputs = [torch.randn(2, 8, 12, 12), torch.randn(3, 8, 8 // groups, 3, 3), torch.rand(2, 3)]
        inputs[place].view(-1)[5] = value
        expected = mixture(*inputs, groups=groups).isfinite()
        assert not expected.all()
        for algorithm in DENSE if groups == 1 else ("kernel", "fused"):
            found = mix_convolutions(*inputs, groups=groups, algorithm=algorithm).isfinite()
            if algorithm == "winograd":
                assert not (found & ~expected).any()
            else:
                assert torch.equal(found, expected), algorithm


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
@pytest.mark.parametrize("differentiate", ["torch.func.jvp", "dual_level"])
def test_forward_mode_derivatives_are_right_or_refused(algorithm: str, differentiate: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    torch.manual_seed(0)
    x, weight, a = torch.randn(2, 8, 12, 12), torch.randn(3, 8, 8, 3, 3), torch.rand(2, 3)
    dx, da = torch.randn_like(x), torch.randn_like(a)

    def mix(x: Tensor, a: Tensor) -> Tensor:
        return mix_convolutions(x, weight, a, padding=1, algorithm=algorithm)

    def derivative() -> Tensor:
        if differentiate == "torch.func.jvp":
            found: Tensor = torch.func.jvp(mix, (x, a), (dx, da))[1]
            return found
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(mix(forward_ad.make_dual(x, dx), forward_ad.make_dual(a, da))).tangent

    if algorithm in ("fused", "winograd"):
        with pytest.raises(NotImplementedError, match=f"'{algorithm}' has no forward-mode derivative; use 'auto'"):
            derivative()
    else:
        torch.testing.assert_close(derivative(), mix(dx, a) + mix(x, da), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "shape", "geometry"),
    [
        ("winograd", (2, 8, 8, 5, 5), {}),
        ("winograd", (2, 8, 6, 3, 3), {}),
        ("winograd", (2, 8, 8, 3, 3), {"stride": 2}),
        ("fused", (2, 8, 8, 5, 5), {}),
        ("fused", (2, 8, 8, 3, 3), {"stride": 3}),
        ("fused", (2, 8, 8, 3, 3), {"dilation": 2}),
        ("fused", (2, 8, 8, 1, 1), {}),
        ("depthwise", (2, 8, 8, 3, 3), {}),
        ("depthwise", (2, 16, 1, 3, 3), {"groups": 8}),
        ("depthwise", (2, 8, 2, 3, 3), {"groups": 4}),
    ],
)
def test_the_operators_refuse_what_they_do_not_compute(
    algorithm: str, shape: tuple[int, ...], geometry: dict[str, int]
) -> None:
    x = torch.randn(1, shape[2] * geometry.get("groups", 1), 8, 8)
    with pytest.raises(ValueError, match=f"algorithm '{algorithm}' needs"):
        mix_convolutions(x, torch.randn(shape), torch.ones(1, 2), padding=1, algorithm=algorithm, **geometry)


WRONG = {
    "channels": ((2, 6, 8, 8), (2, 3), "x: needs"),
    "no batch": ((8, 8, 8), (2, 3), "x: needs"),
    "one routing weight": ((2, 8, 8, 8), (2, 1), "routing weights: need"),
    "too few images": ((2, 8, 8, 8), (1, 3), "routing weights: need"),
}


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
@pytest.mark.parametrize("name", WRONG)
def test_shapes_that_do_not_fit_are_refused(algorithm: str, name: str) -> None:
    x, a, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        mix_convolutions(torch.randn(x), torch.randn(3, 8, 8, 3, 3), torch.ones(a), padding=1, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["auto", *DENSE])
def test_types_that_do_not_fit_are_refused_and_routing_weights_of_any_type_taken(algorithm: str) -> None:
    if algorithm in ("fused", "winograd"):
        needs_operators()
    x, weight, a = torch.randn(2, 8, 12, 12), torch.randn(3, 8, 8, 3, 3), torch.rand(2, 3)
    options = {"padding": 1, "algorithm": algorithm}
    for wrong in ((x.double(), weight, a), (x, weight.double(), a), (x, weight, a.long())):
        with pytest.raises(ValueError, match="types: "):
            mix_convolutions(*wrong, **options)

    half = a.half()
    expected = mix_convolutions(x, weight, half.float(), **options)
    torch.testing.assert_close(mix_convolutions(x, weight, half, **options), expected)  # type: ignore[arg-type]
    torch.testing.assert_close(mix_convolutions(x, weight, half.double(), **options), expected)  # type: ignore[arg-type]


def test_an_unknown_algorithm_is_refused() -> None:
    weight = torch.randn(2, 8, 8, 3, 3)
    with pytest.raises(ValueError, match="'fast' is none of"):
        mix_convolutions(torch.randn(1, 8, 8, 8), weight, torch.ones(1, 2), algorithm="fast")  # type: ignore[arg-type]


def test_gradients_are_right_to_second_order() -> None:
    """`kernel` and `input` differentiate twice, in float64 by finite differences."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 2, 4, 4), (2, 2, 2, 3, 3), (2, 2))
    ]
    for algorithm in ("kernel", "input"):

        def mix(*tensors: Tensor, algorithm: str = algorithm) -> Tensor:
            return mix_convolutions(*tensors, padding=1, algorithm=algorithm)

        assert torch.autograd.gradcheck(mix, inputs)
        assert torch.autograd.gradgradcheck(mix, inputs)


@pytest.mark.parametrize(("algorithm", "groups"), GROUPED)
@pytest.mark.parametrize("inputs_needed", [(0, 1, 2), (1, 2), (2,)])
def test_the_operators_differentiate_twice(algorithm: str, groups: int, inputs_needed: tuple[int, ...]) -> None:
    """The gradient of a gradient penalty, against `kernel`."""
    needs_operators(algorithm)
    torch.manual_seed(0)
    weight = torch.randn(3, 8 if algorithm == "depthwise" else 16, 8 // groups, 3, 3)
    given_ = [torch.randn(2, 8, 11, 11), weight, torch.randn(2, 3)]
    found = []
    for name in (algorithm, "kernel"):
        tensors_ = [tensor.clone().requires_grad_(i in inputs_needed) for i, tensor in enumerate(given_)]
        wanted = [tensors_[i] for i in inputs_needed]
        out = mix_convolutions(*tensors_, padding=1, groups=groups, algorithm=name)
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        found.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), wanted))

    for ours, theirs in zip(*found, strict=True):
        assert relative_error(ours, theirs.double()) < 1e-4
