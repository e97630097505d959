"""The notebook runs from its first cell to its last, and holds no outputs."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "walkthrough.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_it_is_valid_and_has_no_outputs(cells: list[dict[str, Any]]) -> None:
    nbformat = pytest.importorskip("nbformat")

    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
def test_its_code_runs_in_order_on_generated_images(
    cells: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WALKTHROUGH_DATA", "shapes")
    monkeypatch.setenv("WALKTHROUGH_SMALL", "1")
    backend = plt.get_backend()
    plt.switch_backend("agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    try:
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        drawn = len(plt.get_fignums())
    finally:
        plt.close("all")
        plt.switch_backend(backend)

    said = capsys.readouterr().out
    (difference,) = re.findall(r"between the layer and the equations: (\S+)", said)
    assert float(difference) < 1e-5
    assert drawn == 5 and "test accuracy: " in said and len(names["history"]) == 10
    assert names["history"][-1][1] < names["history"][0][1]  # it learns
    assert names["confusion"].sum() == len(names["test_labels"])
