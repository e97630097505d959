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


def test_autocast_computes_in_the_precision_that_is_asked_for() -> None:
    linear, x = torch.nn.Linear(2, 2), torch.ones(1, 2)

    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with device.autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
            assert linear(x).dtype == dtype
