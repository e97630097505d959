from pathlib import Path

import numpy as np
import pytest

from dynconv import doctor
from dynconv.cli.main import main
from dynconv.layer.ops import winograd


def found() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def printed(findings: list[doctor.Finding]) -> str:
    return doctor.report(findings).plain


def test_names_what_decides_the_speed_and_whether_it_can_run() -> None:
    names = found().keys()

    assert {
        "processor",
        "cores",
        "torch",
        "device",
        "precision",
        "fused operator",
        "winograd operator",
        "norm_gelu operator",
        "pixel_sum operator",
        "free disk, here",
    } <= names


def test_a_missing_compiler_is_reported_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd.library, "status", lambda: "not available: no C++ compiler found")

    finding = found()["winograd operator"]

    assert finding.state == "look" and "install" in finding.advice
    assert "What to do" in printed([finding]) and finding.advice in printed([finding])


def test_more_threads_than_cores_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 4096)

    assert "OMP_NUM_THREADS" in found()["cores"].advice


def test_little_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 2**30)

    assert found()["memory"].state == "look"


@pytest.mark.parametrize("name", ["DYNCONV_CPU", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"])
def test_what_holds_the_processor_down_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in doctor.HOLD_DOWN:
        monkeypatch.delenv(other, raising=False)
    assert not set(doctor.HOLD_DOWN) & found().keys()

    monkeypatch.setenv(name, "avx2")

    assert found()[name].state == "look" and "'avx2' limits" in found()[name].found


def test_data_are_found_where_training_would_find_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYNCONV_DATA", str(tmp_path))
    for split, count in (("train", 20), ("test", 10)):
        np.save(tmp_path / f"{split}-images.npy", np.zeros((count, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}-labels.npy", np.arange(count) % 10)

    assert "20 + 10 images" in found()["data"].found
    assert found()["data"].advice == f"this is not CIFAR-10: to train on it, give --data {tmp_path}"
    monkeypatch.setenv("DYNCONV_DATA", "~nosuchuser/x")
    assert "no such home directory" in found()["data"].found


def test_no_data_says_where_it_looked_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    monkeypatch.setattr(doctor.places, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    finding = found()["data"]

    assert finding.state == "look" and str(tmp_path / "cache") in finding.found and "--data" in finding.advice


def test_damaged_data_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYNCONV_DATA", str(tmp_path / "gone"))

    assert found()["data"].state == "look" and str(tmp_path / "gone") in found()["data"].found


def test_nothing_to_do_says_how_to_begin() -> None:
    assert "dynconv train quick" in printed([doctor.Finding("x", "y")])


def test_a_finding_is_one_line_whatever_the_terminals_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = doctor.Finding("a name", "word " * 60 + "end", "look", "advice " * 60 + "end")
    monkeypatch.setattr("dynconv.cli.doctor.examine", lambda: [finding, doctor.Finding("b", "short")])
    printed = []
    for width in ("40", "300"):
        monkeypatch.setenv("COLUMNS", width)
        assert main(["doctor"]) == 0
        printed.append(capsys.readouterr().out)

    lines = printed[0].splitlines()
    assert printed[0] == printed[1] and not any(line.endswith(" ") for line in lines)
    assert [line for line in lines if "word" in line] == [f"look  a name  {finding.found}"]
    assert f"- a name: {finding.advice}" in lines
