"""Test-time augmentation of unsure images alone, against that of all -> benchmarks/unsure.json, and a table.

    python benchmarks/unsure.py RUN [RUN ...] --data PATH

The runs are of studies, which hold training images out; those are classified here, so the test set chooses nothing. An
image is unsure where the probabilities of its two likeliest classes differ by less than a margin. For each margin: the
share of images that are augmented, and accuracy (points) and loss less those with all images augmented, over the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from dynconv import data
from dynconv.artifacts.commit import require_committed
from dynconv.artifacts.environment import environment
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.machine import autocast
from dynconv.model.tta import batched_logits, unsure
from dynconv.training.figures import accuracy_of
from dynconv.training.launch import config_of

OUTPUT = Path(__file__).with_name("unsure.json")
MARGINS = (0.0, 0.25, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


def measured(path: Path, source: str) -> dict[str, Any]:
    """The figures of a run on the images that it held out."""
    predictor = Predictor.load(path)
    assert predictor.run is not None
    config = config_of(predictor.run)
    if not config.holdout:
        sys.exit(f"{path}: its run held no images out; name runs of a study")
    held = data.hold_out(data.load(source), config.holdout, config.seed).validation
    assert held is not None
    images = held.images.to(predictor.device)
    with autocast(predictor.device, predictor.precision):
        plain, of_views = (batched_logits(predictor.net, images, views=views).cpu() for views in (False, True))
    all_augmented = accuracy_of(of_views, held.labels), float(F.cross_entropy(of_views, held.labels))
    by_margin = {}
    for margin in MARGINS:
        augmented = unsure(plain, margin)
        logits = plain.where(~augmented[:, None], of_views)
        by_margin[str(margin)] = {
            "share": float(augmented.float().mean()),
            "accuracy": 100 * (accuracy_of(logits, held.labels) - all_augmented[0]),
            "loss": float(F.cross_entropy(logits, held.labels)) - all_augmented[1],
        }
    name, smoothing = f"{path.parent.name}/{path.name}", config.optim.label_smoothing
    return {
        "run": name,
        "label_smoothing": smoothing,
        "accuracy": all_augmented[0],
        "loss": all_augmented[1],
        "by_margin": by_margin,
    }


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory with a hold-out")
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    arguments = parser.parse_args()

    try:
        require_committed(OUTPUT)
    except DynconvError as error:
        sys.exit(str(error))
    found = [measured(path, arguments.data) for path in arguments.runs]
    about = environment("cifar10")
    machine = {"processor": about.processor, "torch": about.packages["torch"], "git_commit": about.git_commit}
    OUTPUT.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")
    print(f"{'margin':>6} {'augmented':>10} {'accuracy':>18} {'loss':>9}   ({len(found)} runs)")
    for margin in MARGINS:
        cells = [each["by_margin"][str(margin)] for each in found]
        share, accuracy, loss = ([cell[figure] for cell in cells] for figure in ("share", "accuracy", "loss"))
        spread = f" ± {statistics.stdev(accuracy):.3f}" if len(found) > 1 else ""
        shown = f"{statistics.mean(accuracy):+.3f}{spread}"
        print(f"{margin:6} {statistics.mean(share):10.1%} {shown:>18} {statistics.mean(loss):+9.4f}")


if __name__ == "__main__":
    main()
