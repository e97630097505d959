"""`dynconv export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import model_validator
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.export import onnx_file
from dynconv.export.export import export, target
from dynconv.inference.evaluate import load_dataset
from dynconv.inference.predictor import Predictor


class ExportArguments(Arguments):
    """The file takes any number of uint8 images and returns logits and probabilities. It is kept only if its outputs
    on real images agree with the network's.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory, weights file, or accurate or standard for packaged weights."""
    format: Literal["onnx", "pt2"] = "onnx"
    """onnx: for onnxruntime and others. pt2: for torch.export.load."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Axes of the images: [N, H, W, 3], as image libraries give them, or [N, 3, H, W]."""
    int8: bool = False
    """Quantise the convolutions, calibrated on 512 training images; measures the accuracy before and after. Needs
    --format onnx."""
    output: Path | None = None
    """File to write. Default: model.onnx (model-int8.onnx, model.pt2) in the run directory; for a weights file, a file
    of its name in the current directory."""
    data: str | None = None
    """Images for the check: cifar10, shapes, auto or a path. Default: the data that the network was trained on."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> Self:
        if self.int8 and self.format != "onnx":
            raise ValueError("int8: needs --format onnx")
        return self


def run(words: Sequence[str]) -> int:
    """Writes the file, and prints how it compares with the network, then its path."""
    arguments = parse(ExportArguments, words, "export")
    show_messages()
    path = target(arguments.run, arguments.format, arguments.int8, arguments.output)
    if arguments.format == "onnx":
        onnx_file.need()  # reports missing packages before the work, not after it
    predictor = Predictor.load(arguments.run, device="cpu")
    dataset = load_dataset(predictor, arguments.data)
    written = export(predictor, dataset, path, arguments.format, arguments.layout, int8=arguments.int8)
    print(f"largest difference of a probability from the network's: {written.difference:.2g}, for 1 and for 7 images")
    if written.accuracies:
        print("accuracy on {}: {:.2%} in float32, {:.2%} in int8".format(dataset.name, *written.accuracies))
    print(written.path)
    return 0
