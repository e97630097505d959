"""Run directories of networks that nobody trained, for tests of what is made from a run."""

from pathlib import Path

import torch

from dynconv.artifacts.environment import environment
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data import shapes
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net

PLAIN = ModelConfig(widths=(8, 8), pools=(4, 2), experts=2)


def write_run(path: Path, model: ModelConfig) -> Path:
    torch.manual_seed(0)
    net = Net(model, len(shapes.CLASSES))
    net.input.fit(shapes.generate(0).train.images)
    torch.nn.init.normal_(net.head.linear.weight)  # so that images differ in their probabilities
    config = {"seed": 0, "epochs": 1, "image_sizes": (32,), "tta": False, "precision": "fp32", "model": model}
    run = RunDir.create(path, config, environment("shapes", data_source="shapes"))
    provenance = f"written by {__name__}"
    save_weights(run.weights, Weights(net.state_dict(), model, shapes.CLASSES, "shapes", provenance, "fp32"))
    return path
