"""Fits the model by which `auto` chooses to a measurement of the layer: benchmarks/layer.json -> layer/choice.json.

    dynconv bench layer --output benchmarks/layer.json
    python benchmarks/fit_choice.py
    dynconv bench layer --output benchmarks/layer.json    (measures nothing anew: says how good the choices are now)

Least squares on the logarithm of the time. An algorithm's cells count by how near it comes to the best one there: where
it is hopeless, it does not matter how hopeless.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.bench.layer import geometry_of
from dynconv.layer import choice

HERE = Path(__file__).parent
MODEL = HERE.parent / "src" / "dynconv" / "layer" / "choice.json"


def fit(cells: list[dict[str, Any]], mode: str) -> dict[str, list[float]]:
    """The coefficients of each algorithm, for the cells of one type of numbers."""
    found = {}
    for algorithm in choice.FIXED:
        rows, targets, weights = [], [], []
        for cell in cells:
            times = {name: figures[f"{mode}_ms"] for name, figures in cell["methods"].items() if name in choice.FIXED}
            if algorithm not in times:
                continue
            rows.append(choice.features(algorithm, geometry_of(cell, "cpu", mode == "training")))
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
    parser.add_argument("--measured", type=Path, default=HERE / "layer.json")
    measured = json.loads(parser.parse_args().measured.read_text())
    cells = measured["cells"]
    types = {
        dtype: {
            mode: fit([cell for cell in cells if cell["dtype"] == dtype], mode) for mode in ("inference", "training")
        }
        for dtype in dict.fromkeys(cell["dtype"] for cell in cells)
    }
    machine = {name: measured["machine"][name] for name in ("processor", "instruction_sets", "cores")}
    MODEL.write_text(json.dumps({"measured_on": machine, "devices": {"cpu": types}}, indent=1) + "\n")
    print(f"written: {MODEL}")


if __name__ == "__main__":
    main()
