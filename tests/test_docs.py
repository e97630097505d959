"""The examples in the documentation run as they stand."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["layer.md"])
def test_examples_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)

    assert examples
    for example in examples:
        exec(compile(example, page, "exec"), {})
    assert "->" in capsys.readouterr().out
