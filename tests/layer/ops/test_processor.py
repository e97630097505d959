import platform
from pathlib import Path

import pytest

from dynconv.layer import instruction_sets
from dynconv.layer.ops import processor

ZEN4 = "fpu avx2 fma bmi1 bmi2 f16c movbe avx512f avx512_bf16 amx_bf16 avx10"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Pretends to be on a processor with these flags."""

    def pretend(flags: str, machine: str = "x86_64", limit: str | None = None) -> None:
        monkeypatch.setattr(Path, "read_text", lambda path, **_: f"processor : 0\nflags : {flags}\n")
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.delenv(processor.VARIABLE, raising=False)
        if limit is not None:
            monkeypatch.setenv(processor.VARIABLE, limit)

    return pretend


def test_without_a_limit_everything_counts(on) -> None:  # type: ignore[no-untyped-def]
    for limit in (None, "", "none"):
        on(ZEN4, limit=limit)

        assert instruction_sets() == set(ZEN4.split()) and processor.compiler_flags() == ("-march=native",)


def test_avx2_rules_out_what_came_later(on) -> None:  # type: ignore[no-untyped-def]
    on(ZEN4, limit="avx2")

    assert instruction_sets() == {"fpu", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}
    assert processor.compiler_flags() == ("-march=x86-64-v3",)


def test_avx512_rules_out_the_matrix_unit(on) -> None:  # type: ignore[no-untyped-def]
    on(ZEN4, limit="avx512")

    assert instruction_sets() == set(ZEN4.split()) - {"amx_bf16"}
    assert processor.compiler_flags() == ("-march=native", "-mno-amx-tile")


def test_a_limit_adds_nothing_that_the_processor_lacks(on) -> None:  # type: ignore[no-untyped-def]
    on("fpu sse2", limit="avx2")

    assert instruction_sets() == {"fpu", "sse2"} and processor.compiler_flags() == ("-march=native",)


@pytest.mark.parametrize(
    ("limit", "machine", "message"),
    [
        ("avx3", "x86_64", "DYNCONV_CPU=avx3 is not known; set it to avx512, avx2 or none, or unset it"),
        ("avx2", "aarch64", "DYNCONV_CPU=avx2 is for x86, not for aarch64; set it to none, or unset it"),
    ],
)
def test_unknown_limits_are_refused(on, limit: str, machine: str, message: str) -> None:  # type: ignore[no-untyped-def]
    on(ZEN4, machine, limit)

    with pytest.raises(ValueError, match=message):
        instruction_sets()


def test_where_the_system_does_not_list_them_none_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, **_: object) -> str:
        raise FileNotFoundError

    monkeypatch.delenv(processor.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "read_text", missing)

    assert instruction_sets() == set()
