"""The examples in the documentation run as they stand, and its figures are the measured ones."""

import json
import re
from pathlib import Path

import pytest

from dynconv.training.presets import PRESETS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["layer.md"])
def test_examples_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)

    assert examples
    for example in examples:
        exec(compile(example, page, "exec"), {})
    assert "->" in capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_the_figures_of_a_preset_were_measured_with_its_present_hyper_parameters(name: str) -> None:
    measured = json.loads((DOCS.parent / "benchmarks" / f"{name}.json").read_text())
    present = PRESETS[name]().model_dump(mode="json", exclude={"seed", "run", "data"})

    assert measured["config"] == present


@pytest.mark.parametrize("name", PRESETS)
def test_the_pages_state_the_figures_that_were_measured(name: str) -> None:
    measured = json.loads((DOCS.parent / "benchmarks" / f"{name}.json").read_text())
    shown = " ".join(path.read_text() for path in (DOCS / "training.md", DOCS.parent / "README.md"))
    for figure in ("test_accuracy", "test_accuracy_tta"):
        if measured[figure]:
            mean, sd = measured[figure]["mean"], measured[figure]["sd"]
            text = f"{100 * mean:.2f} %" if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f} %"
            assert shown.count(text) >= 2, f"{name}: {text} is not on both pages"
