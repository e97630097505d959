"""Fits the model by which `auto` chooses to a measurement of the layer: benchmarks/layer.json -> layer/choice.json.

    dynconv bench layer --output benchmarks/layer.json
    git commit benchmarks
    python benchmarks/fit_choice.py
    git commit src
    dynconv bench layer --output benchmarks/layer.json    (repeats no measurement; says how good the choices are now)

Least squares on the logarithm of the time. Each cell of an algorithm is weighted by how close the algorithm comes to
the best one there: where it is hopeless, it does not matter how hopeless.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.artifacts.commit import require_committed
from dynconv.bench.layer import geometry_of
from dynconv.errors import DynconvError
from dynconv.layer.algorithms import ALGORITHMS

HERE = Path(__file__).parent
MODEL = HERE.parent / "src" / "dynconv" / "layer" / "choice.json"


def fit(cells: list[dict[str, Any]], mode: str) -> dict[str, list[float]]:
    """The coefficients of each algorithm, for the cells of one type of numbers."""
    found = {}
    for algorithm in ALGORITHMS:
        rows, targets, weights = [], [], []
        for cell in cells:
            times = {name: figures[f"{mode}_ms"] for name, figures in cell["methods"].items() if name in ALGORITHMS}
            if algorithm not in times:
                continue
            rows.append(ALGORITHMS[algorithm].features(geometry_of(cell, "cpu", mode == "training")))
            targets.append(math.log(times[algorithm] / cell["batch"]))
            weights.append(math.sqrt(min(times.values()) / times[algorithm]))
        if rows:
            weight = np.array(weights)[:, None]
            solution, *_ = np.linalg.lstsq(weight * np.array(rows), weight[:, 0] * np.array(targets), rcond=None)
            found[algorithm] = [round(float(value), 4) for value in solution]
    return found


def main() -> None:
    """Fits every type of numbers that was measured, with and without gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=HERE / "layer.json", help="what dynconv bench layer wrote")
    parser.add_argument("--allow-uncommitted", action="store_true", help="fit although no commit describes the code")
    arguments = parser.parse_args()
    if not arguments.allow_uncommitted:
        try:
            require_committed(MODEL)
        except DynconvError as error:
            sys.exit(str(error))
    measured = json.loads(arguments.measured.read_text())
    cells = measured["cells"]
    types = {
        dtype: {
            mode: fit([cell for cell in cells if cell["dtype"] == dtype], mode) for mode in ("inference", "training")
        }
        for dtype in dict.fromkeys(cell["dtype"] for cell in cells)
    }
    about = {name: measured["machine"][name] for name in ("processor", "instruction_sets", "cores")}
    # Cells measured before commits were recorded have none.
    about["git_commits"] = sorted({cell["git_commit"] for cell in cells if cell.get("git_commit")})
    MODEL.write_text(json.dumps({"measured_on": about, "devices": {"cpu": types}}, indent=1) + "\n")
    print(f"written: {MODEL}")


if __name__ == "__main__":
    main()
