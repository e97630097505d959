"""A run of `standard` -> the weights that come with the package, and their model card.

    python benchmarks/package_weights.py RUN --data PATH

Experts are stored in 16 bits. The figures in the card are those of the stored file, measured here, and of
benchmarks/standard.json. Which run: that of seed 0, so that nothing is chosen by the test set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dynconv import data
from dynconv.artifacts.weights import load_weights, save_weights
from dynconv.inference import class_routing
from dynconv.inference.evaluate import Metrics, evaluate
from dynconv.inference.predictor import Classifier, packaged_weights

HERE = Path(__file__).parent
CARD = """# standard: a CIFAR-10 classifier with dynamic convolutions

Weights of dynconv's preset `standard`, trained by its own code on CIFAR-10's 50,000 training images.

| | |
|---|---|
| architecture | {blocks} blocks of {experts} expert 3x3 convolutions, mixed by a router; softmax regression |
| size | {parameters:,} parameters, {multiply_adds:,} multiply-adds for an image of 32x32; experts stored in 16 bits |
| input | RGB, 32x32, 0 to 255; the preprocessing (standardisation, whitening) is part of the network |
| classes | {classes} |
| recipe | {epochs} epochs; every hyper-parameter is in the file's header; `dynconv train standard --seed 0` |
| test accuracy of this file | {accuracy:.2%}, {tta:.2%} with test-time augmentation |
| of the recipe | {recipe}, {recipe_tta} with test-time augmentation |

Accuracy on the test images of each class, without test-time augmentation:

| class | accuracy |
|---|---|
{rows}

Which run: that of seed 0, not the best of several by the test set.

**Intended use**: study, teaching, demonstrations, and as a start for other networks on small images.

**Limits**: it knows ten classes, and gives one of them to whatever it is shown. Having been trained with label
smoothing it is less confident than it is right: see the calibration in a run's report. It is sensitive to noise, blur
and compression. Of CIFAR-10's test images, 3.3 % have a near-duplicate among the training images
([Barz and Denzler 2020](https://arxiv.org/abs/1902.00423)), which flatters every figure on it. Not for decisions
about people or safety.

**Licence**: MIT, as the code. The images that it was trained on are not part of it.
"""


def main() -> None:
    """Writes the file and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="cifar10", help="as for dynconv train")
    arguments = parser.parse_args()

    target = packaged_weights("standard")
    target.parent.mkdir(exist_ok=True)
    weights = load_weights(arguments.run / "weights.safetensors")
    state = {name: tensor.half() if name.endswith("conv.weight") else tensor for name, tensor in weights.state.items()}
    # Where the images lay is of no use to others.
    source = weights.config.data.model_copy(update={"source": "cifar10"})
    config = weights.config.model_copy(update={"data": source, "run": None})
    save_weights(target, state, config, weights.classes, weights.data_name)

    test = data.load(arguments.data).test
    classifier = Classifier.load(target)
    class_routing.save(class_routing.measure(classifier, test), class_routing.beside(target))  # for the server's page
    plain, tta = (evaluate(classifier, test, tta=each) for each in (False, True))
    target.with_suffix(".md").write_text(_card(arguments.run, classifier, plain, tta))
    print(f"{target}: {target.stat().st_size:,} bytes, {plain.accuracy:.2%}, {tta.accuracy:.2%}")


def _spread(figure: dict[str, float | None]) -> str:
    """Mean, standard deviation where there is one, and number, in percent."""
    mean, sd, n = (figure[name] for name in ("mean", "sd", "n"))
    return f"{mean:.2%} (n = {n})" if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f} % (n = {n})"


def _card(run: Path, classifier: Classifier, plain: Metrics, tta: Metrics) -> str:
    summary = json.loads((run / "summary.json").read_text())
    recipe = json.loads((HERE / "standard.json").read_text())
    rows = zip(classifier.classes, plain.per_class, strict=True)
    return CARD.format(
        blocks=len(classifier.config.model.widths),
        experts=classifier.config.model.experts,
        parameters=summary["parameters"],
        multiply_adds=summary["multiply_adds"],
        classes=", ".join(classifier.classes),
        epochs=classifier.config.epochs,
        accuracy=plain.accuracy,
        tta=tta.accuracy,
        recipe=_spread(recipe["test_accuracy"]),
        recipe_tta=_spread(recipe["test_accuracy_tta"]),
        rows="\n".join(f"| {name} | {accuracy:.1%} |" for name, accuracy in rows),
    )


if __name__ == "__main__":
    main()
