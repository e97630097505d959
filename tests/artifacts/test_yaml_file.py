"""Configurations that take long, need much memory, or that a conversion fails on: one line each."""

from pathlib import Path

import pytest

from dynconv.artifacts import yaml_file
from dynconv.errors import DynconvError


def aliases(levels: int, each: str = "[{}]") -> str:
    lines = ["a0: &a0 " + ("[x, x, x]" if each == "[{}]" else "{x: 1}")]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} " + each.format(", ".join([f"*a{level - 1}"] * 10)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (aliases(9), "more than 50,000 values"),
        (aliases(9, "{{<<: [{}]}}"), "more than 50,000 values"),
        ("a: &a [*a]", "line 1: a value contains itself"),
        ("a: &m {x: *m}", "line 1: a value contains itself"),
        ("[" + "x," * 60_000 + "]", "more than 50,000 values"),
        ("a: " + "9" * 5000, "line 1: a value of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "line 1: a value of 5,002 characters"),
        ("a: " + ":".join(["59"] * 100_000), "line 1: a value of 299,999 characters"),
        ("a: '" + "x" * (1 << 20) + "'", "has more than 1,048,576 bytes"),
        ("[" * 5000, "not YAML"),
        ("a:\n- 2020-13-45", "not YAML: month must be in 1..12"),
        ('a: !!int "x"', "not YAML: invalid literal for int"),
        ("a: !!float x", "not YAML: could not convert string to float"),
        ("a: !!float", "not YAML: a value that cannot be converted"),
        ("a: !!bool x", "not YAML: a value that cannot be converted"),
        ("a: !!timestamp x", "not YAML: a value that cannot be converted"),
        ("a: !!python/object/apply:os.system [x]", "not YAML: line 1: could not determine a constructor"),
        ("a: {b", "not YAML: line 1: expected ',' or '}'"),
        ("a: 1\nmodel: {null: 3}", "line 2: the name of a field is a NoneType; write it in quotes"),
        ("1: 2", "line 1: the name of a field is a int; write it in quotes"),
        ("- 3", "must hold fields, as in 'epochs: 5', not a list"),
        ("\0", "not YAML: "),
        (b"\xff", "not YAML: "),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(DynconvError) as caught:
        yaml_file.read(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_aliases_and_merges_of_a_real_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("base: &base {a: 1, b: [1, 2]}\nmodel: {<<: *base, a: 3}\nlist: [*base, *base]\n")

    found = yaml_file.read(tmp_path / "x.yaml")

    assert found["model"] == {"a": 3, "b": [1, 2]} and found["list"] == [found["base"]] * 2
    (tmp_path / "x.yaml").write_text("")
    assert yaml_file.read(tmp_path / "x.yaml") == {}
