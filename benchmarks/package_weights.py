"""A run of a preset -> weights that come with the package, under the preset's name, and their model card.

    python benchmarks/package_weights.py RUN --data PATH

Experts are stored in 16 bits. The figures in the card are those of the stored file, measured here, and those of
benchmarks/PRESET.json. Take the run with seed 0, so that nothing is selected by the test set.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from dynconv import data
from dynconv.artifacts.commit import require_committed
from dynconv.artifacts.found_weights import packaged_weights
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import load_weights, save_weights
from dynconv.data import Split
from dynconv.errors import DynconvError
from dynconv.inference import class_routing
from dynconv.inference.evaluate import evaluate
from dynconv.inference.metrics import Metrics
from dynconv.inference.predictor import Predictor
from dynconv.report.sections.calibration import calibration, temperature_scaled
from dynconv.report.sections.corruptions import robustness

HERE = Path(__file__).parent
CORRUPTED = 2000
"""Number of test images to corrupt."""
CARD = """# {name}: a CIFAR-10 classifier with dynamic convolutions

Weights of dynconv's preset `{name}`, trained by this project's own code on CIFAR-10's 50,000 training images.

| | |
|---|---|
| architecture | {blocks} blocks of K = {experts} expert 3x3 convolutions, mixed by a router; softmax regression |
| size | {parameters:,} parameters, {multiply_adds:,} multiply-adds per 32x32 image; experts stored in 16 bits |
| input | RGB, 32x32, 0 to 255; the preprocessing (standardisation, whitening) is part of the network |
| classes | {classes} |
| recipe | {epochs} epochs: `dynconv train {name} --seed {seed}` |
| test accuracy of this file | {accuracy:.2%}, {tta:.2%} with test-time augmentation |
| test accuracy of the recipe | {recipe}, {recipe_tta} with test-time augmentation |
| expected calibration error | {ece:.1%} (15 bins, one view); {scaled_ece:.1%} at temperature {temperature:.2f} |

Accuracy on the test images of each class, without test-time augmentation:

| class | accuracy |
|---|---|
{rows}

Accuracy on {corrupted:,} corrupted test images, from mild to strong (the corruptions of a run's report):

| corruption | mild | medium | strong |
|---|---|---|---|
{corruptions}

This is the run with seed {seed}, not the best of several by the test set. The temperature is not applied: it was fitted
to test images (each half to the other), since all training images were trained on.

**Intended use**: study, teaching, demonstrations, and as a starting point for other networks on small images.

**Limits**: the network knows ten classes and assigns one of them to any image. It is underconfident, because it was
trained with label smoothing. It is sensitive to noise, blur and compression.
3.3 % of CIFAR-10's test images have a near-duplicate among the training images
([Barz and Denzler 2020](https://arxiv.org/abs/1902.00423)), which flatters every figure on it. Not for decisions about
people or safety.

**Licence**: MIT, like the code. The training images are not part of it.
"""


def main() -> None:
    """Writes the weights, the class means of their routing, and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    parser.add_argument(
        "--allow-uncommitted", action="store_true", help="measure although no commit describes the code"
    )
    arguments = parser.parse_args()
    run = RunDir.open(arguments.run)
    target = packaged_weights(run.config.preset)
    means, card = class_routing.beside(target), target.with_suffix(".md")
    if not arguments.allow_uncommitted:
        try:
            require_committed(target, means, card)
        except DynconvError as error:
            sys.exit(str(error))
    target.parent.mkdir(exist_ok=True)
    weights = load_weights(run.weights)
    state = {name: tensor.half() if name.endswith("conv.weight") else tensor for name, tensor in weights.state.items()}
    provenance = f"{weights.provenance}; commit {run.environment.git_commit}; experts rounded to 16 bits"
    save_weights(target, replace(weights, state=state, provenance=provenance))

    test = data.load(arguments.data).test
    predictor = Predictor.load(target)
    class_routing.save(class_routing.measure(predictor, test), means)  # for the server's page
    plain, tta = (evaluate(predictor, test, tta=each) for each in (False, True))
    card.write_text(_card(run, predictor, test, plain, tta), encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes, {plain.accuracy:.2%}, {tta.accuracy:.2%}")


def _spread(figure: dict[str, float | None]) -> str:
    """Mean, standard deviation if there is one, and number of runs, in percent."""
    mean, sd, n = (figure[name] for name in ("mean", "sd", "n"))
    return f"{mean:.2%} (n = {n})" if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f} % (n = {n})"


def _card(run: RunDir, predictor: Predictor, test: Split, plain: Metrics, tta: Metrics) -> str:
    summary = run.summary()
    assert summary is not None
    recipe = json.loads((HERE / f"{run.config.preset}.json").read_text())
    rows = zip(predictor.classes, plain.per_class, strict=True)
    log_probabilities = predictor.logits(test.images).log_softmax(1)
    scaled, temperature = temperature_scaled(log_probabilities, test.labels)
    sample = test.sample(CORRUPTED)
    corrupted = robustness(predictor, sample.images, sample.labels)
    return CARD.format(
        name=run.config.preset,
        ece=calibration(log_probabilities, test.labels).error,
        scaled_ece=calibration(scaled, test.labels).error,
        temperature=temperature,
        corrupted=len(sample.labels),
        corruptions="\n".join(
            f"| {name} | {' | '.join(f'{accuracy:.1%}' for accuracy in found)} |" for name, found in corrupted.items()
        ),
        blocks=len(predictor.model.widths),
        experts=predictor.model.experts_text,
        parameters=summary.parameters,
        multiply_adds=summary.multiply_adds,
        classes=", ".join(predictor.classes),
        epochs=run.config.epochs,
        seed=run.config.seed,
        accuracy=plain.accuracy,
        tta=tta.accuracy,
        recipe=_spread(recipe["test_accuracy"]),
        recipe_tta=_spread(recipe["test_accuracy_tta"]),
        rows="\n".join(f"| {name} | {accuracy:.1%} |" for name, accuracy in rows),
    )


if __name__ == "__main__":
    main()
