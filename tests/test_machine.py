from pathlib import Path

import pytest
import torch

from dynconv import machine as device
from dynconv.errors import DynconvError


def test_auto_takes_an_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert device.pick_device("auto").type == "cuda"
    assert device.pick_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(DynconvError, match=r"cuda is not available here \(available: cpu\)"):
        device.pick_device("cuda")


@pytest.mark.parametrize(
    ("flags", "precision"), [({"avx2", "avx512f"}, "fp32"), ({"avx512_bf16"}, "bf16"), (set(), "fp32")]
)
def test_auto_takes_bf16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(device, "instruction_sets", lambda: flags)

    picked, why = device.pick_precision("auto", torch.device("cpu"))

    assert picked == precision and why
    assert device.pick_precision("bf16", torch.device("cpu"))[0] == "bf16"


@pytest.mark.parametrize(
    ("has_bf16", "capability", "precision"),
    [(True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (7, 0), "fp16"), (False, (6, 1), "fp32")],
)
def test_auto_takes_fp16_on_a_gpu_with_tensor_cores_but_without_bf16(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    picked, why = device.pick_precision("auto", torch.device("cuda"))

    assert picked == precision and "GPU" in why
    assert device.pick_precision("fp16", torch.device("cuda"))[0] == "fp16"


def test_what_a_gpu_trained_in_fp16_is_computed_elsewhere_as_by_auto() -> None:
    cpu = torch.device("cpu")

    assert device.pick_precision("fp16", cpu) == device.pick_precision("auto", cpu)


def test_autocast_computes_in_the_precision_that_is_asked_for() -> None:
    linear, x = torch.nn.Linear(2, 2), torch.ones(1, 2)

    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with device.autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
            assert linear(x).dtype == dtype


def test_an_unknown_limit_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNCONV_CPU", "avx3")

    with pytest.raises(DynconvError, match="DYNCONV_CPU=avx3 is not known; set it to avx512, avx2 or none"):
        device.pick_precision("auto", torch.device("cpu"))


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("max 100000", 8), ("10000 100000", 1), ("9900000 100000", 8), ("", 8)]
)
def test_cores_are_those_that_the_process_may_use(
    quota: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(device, "_CONTROL_GROUP", tmp_path)
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")

    assert device.usable_cores() == cores


def test_memory_is_within_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "_CONTROL_GROUP", tmp_path)
    free = device.available_memory()
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")

    assert free is None or (free > 3_000_000 and device.available_memory() == 3_000_000)
