"""`auto` on a machine that nobody fitted a model to: measured once, remembered, and without a trace in the caller."""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from dynconv.layer import DynamicConv2d, choice, measured, mix_convolutions
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.geometry import Geometry

SLOW_AND_FAST = {"kernel": 4e-3, "input": 3e-3, "output": 1e-3, "unfold": 2e-3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the measurements are kept, empty."""
    monkeypatch.delenv("DYNCONV_NO_MEASURING")
    monkeypatch.setattr(measured, "cache_folder", lambda: tmp_path / "dynconv" / "operators")
    a_new_process()
    yield tmp_path / "dynconv" / "algorithms"
    a_new_process()


def a_new_process() -> None:
    measured._memory.cache_clear()
    choice._fastest.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes `output` the fastest algorithm. The names of those that were timed."""
    timed = []

    def seconds(run: "partial[None]") -> float:
        run()
        timed.append(run.args[0])
        return SLOW_AND_FAST.get(run.args[0], 5e-3)

    monkeypatch.setattr(measured, "seconds_of", seconds)
    return timed


def geometry(batch: int = 8, size: int = 20, training: bool = False) -> Geometry:
    """Of three spatial dimensions nothing was fitted, so all algorithms that can compute it are measured."""
    return Geometry(
        batch, 4, (size, size, 3), 4, 2, (3, 3, 3), (1,) * 3, (1,) * 3, (1,) * 3, 1, torch.float32, "cpu", training
    )


def test_the_fastest_is_taken_and_remembered_for_other_processes(folder: Path, clock: list[str]) -> None:
    assert choice.choose(geometry()) == "output" != choice._predicted(geometry())
    (file,) = folder.glob("*.json")
    content = json.loads(file.read_text())
    assert content["torch"] == torch.__version__ and len(content["milliseconds_per_image"]) == 1
    assert set(clock) == {"kernel", "input", "output"}
    clock.clear()

    a_new_process()

    assert choice.choose(geometry()) == "output" and not clock


@pytest.mark.parametrize("similar", [geometry(batch=9), geometry(size=21)], ids=["batch", "size"])
def test_geometries_that_differ_little_share_a_measurement(folder: Path, clock: list[str], similar: Geometry) -> None:
    choice.choose(geometry())
    clock.clear()

    assert choice.choose(similar) == "output" and not clock


@pytest.mark.parametrize("other", [geometry(batch=32), geometry(size=80), geometry(training=True)])
def test_geometries_that_differ_have_measurements_of_their_own(folder: Path, clock: list[str], other: Geometry) -> None:
    choice.choose(geometry())
    clock.clear()

    assert choice.choose(other) == "output" and clock


def test_another_number_of_threads_is_measured_again(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice.choose(geometry())
    clock.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)

    assert choice.choose(geometry()) == "output" and clock


def test_what_is_about_as_fast_as_predicted_changes_nothing(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = choice._predicted(geometry())
    monkeypatch.setitem(SLOW_AND_FAST, predicted, 1.02e-3)

    assert choice.choose(geometry()) == predicted


@pytest.mark.parametrize("content", [b"", b"[]", b"{\xff", b'{"milliseconds_per_image": {"x": {"output": "y"}}}'])
def test_a_damaged_file_is_measured_again(folder: Path, clock: list[str], content: bytes) -> None:
    choice.choose(geometry())
    (file,) = folder.glob("*.json")
    file.write_bytes(content)
    clock.clear()
    a_new_process()

    assert choice.choose(geometry()) == "output" and clock
    assert json.loads(file.read_text())["milliseconds_per_image"]


def test_where_nothing_can_be_kept_it_is_measured_in_each_process(
    folder: Path, clock: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynconv.layer.ops.build._said", set())
    folder.parent.mkdir()
    folder.write_text("a file where the folder would be")

    assert choice.choose(geometry()) == choice.choose(geometry(batch=32)) == "output"

    (warning,) = caplog.messages
    assert str(folder) in warning and "XDG_CACHE_HOME" in warning


def test_what_other_processes_measured_meanwhile_is_kept(folder: Path, clock: list[str]) -> None:
    choice.choose(geometry())
    here = measured._memory()
    a_new_process()
    choice.choose(geometry(batch=32))  # by another process

    with here.shared():
        here.add("here", {"output": 1.0})

    (file,) = folder.glob("*.json")
    assert len(json.loads(file.read_text())["milliseconds_per_image"]) == 3


def test_on_a_busy_machine_the_prediction_stands_for_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(2.0**n for n in range(1000))
    monkeypatch.setattr(measured, "seconds_of", lambda run: next(times))

    assert choice.choose(geometry()) == choice._predicted(geometry())
    assert not list(folder.glob("*.json"))


def test_where_measuring_fails_the_prediction_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Callable[[], None]) -> float:
        raise MemoryError

    monkeypatch.setattr(measured, "seconds_of", fail)

    assert choice.choose(geometry()) == choice._predicted(geometry())


def test_a_wrong_limit_of_the_processor_is_no_obstacle(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNCONV_CPU", "z80")

    assert choice.choose(geometry()) == "output"
    assert not folder.exists()


def test_nothing_is_measured_where_the_same_bits_are_asked_for(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.choose(geometry()) == choice._predicted(geometry())
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("DYNCONV_NO_MEASURING", "1")
    assert choice.choose(geometry()) == choice._predicted(geometry())
    assert not clock


def test_one_slow_run_rules_nothing_out(folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    timed, usual = [], measured.seconds_of

    def disturbed(run: "partial[None]") -> float:
        timed.append(run.args[0])
        return usual(run) * (20 if timed.count("output") in (1, 3) and run.args[0] == "output" else 1)

    monkeypatch.setattr(measured, "seconds_of", disturbed)

    assert choice.choose(geometry(batch=40)) == "output" and timed.count("output") >= 4  # with few images, and with all


def test_what_cannot_compute_after_all_is_left_out(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("no")

    monkeypatch.setitem(ALGORITHMS, "output", replace(ALGORITHMS["output"], compute=refuse))

    assert choice.choose(geometry()) == "input"
    clock.clear()
    a_new_process()
    assert choice.choose(geometry()) == "input" and not clock, "remembered, too"


def test_an_algorithm_of_the_users_own_is_taken_by_name_only(
    folder: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "loop", ALGORITHMS["output"])

    choice.choose(geometry())

    assert "loop" not in clock


def test_kernels_of_its_own_for_each_image_are_not_made_where_they_take_gigabytes(
    folder: Path, clock: list[str]
) -> None:
    small = Geometry(
        600, 64, (2, 2), 64, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float64, "cpu", False
    )  # fmt: skip
    assert {"kernel", "unfold"} <= set(choice._candidates(small))

    choice.choose(replace(small, batch=1900))  # 64 x 64 x 9 x 1900 numbers
    assert not {"kernel", "unfold"} & set(clock)
    choice.choose(small)
    assert {"kernel", "unfold"} <= set(clock)


def test_nothing_is_measured_while_torch_traces_with_symbols_or_by_example(folder: Path, clock: list[str]) -> None:
    x, weight, routing = torch.randn(3, 4, 6, 6), torch.randn(2, 4, 4, 3, 3), torch.rand(3, 2)

    make_fx(partial(mix_convolutions, padding=1), tracing_mode="symbolic")(x, weight, routing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and says what it takes for a constant
        torch.jit.trace(DynamicConv2d(4, 4, 3).eval(), x, check_trace=False)

    assert not clock


@pytest.mark.parametrize("batch", [1, 3])
def test_nothing_is_measured_while_torch_traces_or_transforms(folder: Path, clock: list[str], batch: int) -> None:
    conv = DynamicConv2d(3, 4, 3, padding=1, experts=2).eval()
    x = torch.randn(batch, 3, 6, 6)

    torch.compile(conv, backend="eager")(x)
    torch.export.export(conv, (x,))
    torch.func.vmap(conv)(x[None])
    torch.func.grad(lambda given: conv(given).sum())(x)

    assert not clock


def test_measuring_leaves_no_trace_in_the_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_SETTLED", float("inf"))  # however busy the machine
    torch.manual_seed(5)
    expected_state = torch.get_rng_state()
    x, weight, routing = torch.randn(40, 4, 6, 6), torch.randn(2, 4, 4, 3, 3), torch.rand(40, 2)
    torch.manual_seed(5)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False) as counter:
        mixed = mix_convolutions(x, weight, routing, padding=1)

    assert list(folder.glob("*.json")), "measured"
    assert torch.equal(torch.get_rng_state(), expected_state)
    assert mixed.dtype == torch.bfloat16 and mixed.is_inference()
    most = max(macs(name, x, weight, routing) for name in ("kernel", "input", "output", "unfold"))  # fused: as kernel
    assert 0 < counter.get_total_flops() <= most


def macs(name: str, *arrays: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        mix_convolutions(*arrays, padding=1, algorithm=name)
    return int(counter.get_total_flops())


def test_the_explanation_shows_what_was_measured(folder: Path, clock: list[str]) -> None:
    explanation = choice.explain(geometry())

    assert explanation.chosen == explanation.estimates[0].algorithm == "output"
    assert explanation.estimates[0].measured and "ms measured" in str(explanation)
    assert not any(estimate.measured for estimate in explanation.estimates if estimate.obstacle)


@given(
    st.builds(
        lambda batch, channels, size, experts, side, stride, groups, dtype, training: Geometry(
            batch, channels * groups, (size, size), channels * groups, experts, (side, side), (stride, stride),
            (side // 2, side // 2), (1, 1), groups, dtype, "cpu", training,
        ).computed(),
        st.integers(1, 600), st.integers(1, 300), st.integers(1, 40), st.integers(1, 8), st.sampled_from([1, 3, 5]),
        st.sampled_from([1, 2]), st.sampled_from([1, 4]), st.sampled_from([torch.float32, torch.bfloat16]),
        st.booleans(),
    )
)  # fmt: skip
def test_the_candidates_can_compute_the_geometry_and_hold_the_prediction(geometry: Geometry) -> None:
    candidates = choice._candidates(geometry)

    assert choice._predicted(geometry) in candidates
    assert len(set(candidates)) == len(candidates)
    assert not any(ALGORITHMS[name].obstacle(geometry) for name in candidates)
