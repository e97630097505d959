"""`dynconv export`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import model_validator
from tyro.conf import Positional

from dynconv.cli.messages import show_messages
from dynconv.cli.parse import Arguments, parse
from dynconv.data import Dataset
from dynconv.export import onnx_file, runtime, web
from dynconv.export.export import Format, Written, export, target
from dynconv.inference.predictor import Predictor
from dynconv.inference.trained_data import load_dataset


class ExportArguments(Arguments):
    """The file takes any number of uint8 images and returns logits and probabilities. It is kept only if its outputs
    on real images agree with the network's. With --format web, it comes with a page that runs it in a browser.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory, weights file, or accurate or standard for packaged weights."""
    format: Literal["onnx", "pt2", "web"] = "onnx"
    """onnx: for onnxruntime and others. pt2: for torch.export.load. web: a folder for any web server, with a page that
    classifies images in the browser."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Axes of the images: [N, H, W, 3], as image libraries give them, or [N, 3, H, W]."""
    int8: bool = False
    """Quantise the convolutions, calibrated on 512 training images; measures the accuracy before and after. Not with
    --format pt2."""
    output: Path | None = None
    """File or folder to write. Default: model.onnx (model-int8.onnx, model.pt2, web, web-int8) in the run directory;
    for a weights file, one of its name in the current directory."""
    data: str | None = None
    """Images for the check: a path, or the name of a data set. Default: the data that the network was trained on."""

    runtime: Path | None = None
    """onnxruntime-web for --format web: its npm package, as a .tgz file or unpacked. Default: the tested version,
    downloaded once."""

    @model_validator(mode="after")
    def _options_of_the_format(self) -> Self:
        if self.int8 and self.format == "pt2":
            raise ValueError("int8: needs --format onnx or web")
        if self.layout == "nchw" and self.format == "web":
            raise ValueError("layout: --format web needs nhwc, as browsers give images")
        if self.runtime and self.format != "web":
            raise ValueError("runtime: needs --format web")
        return self


def run(words: Sequence[str]) -> int:
    """Writes the file or folder, and prints how it compares with the network, then its path."""
    arguments = parse(ExportArguments, words, "export")
    show_messages()
    written = _web(arguments) if arguments.format == "web" else _file(arguments, arguments.format)
    print(written.path)
    return 0


def _file(arguments: ExportArguments, form: Format) -> Written:
    path = target(arguments.run, form, arguments.int8, arguments.output)
    if form == "onnx":
        onnx_file.need()  # reports missing packages before the work, not after it
    predictor, dataset = _network(arguments)
    written = export(predictor, dataset, path, form, arguments.layout, int8=arguments.int8)
    _compare(written, dataset)
    return written


def _web(arguments: ExportArguments) -> Written:
    folder = web.target(arguments.run, arguments.int8, arguments.output)
    onnx_file.need()
    predictor, dataset = _network(arguments)
    brought = runtime.load(arguments.runtime)
    name = arguments.run.resolve().stem if arguments.run.is_file() else arguments.run.resolve().name
    written = web.export(predictor, dataset, folder, brought, name=name, int8=arguments.int8)
    _compare(written, dataset)
    network, whole = (folder / "model.onnx").stat().st_size, sum(file.stat().st_size for file in folder.rglob("*"))
    print(f"{whole / 1e6:.1f} MB, of which the network {network / 1e6:.1f} MB")
    print(f"try it: python -m http.server --directory {shlex.quote(str(folder))}")
    return written


def _network(arguments: ExportArguments) -> tuple[Predictor, Dataset]:
    predictor = Predictor.load(arguments.run, device="cpu")
    return predictor, load_dataset(predictor, arguments.data)


def _compare(written: Written, dataset: Dataset) -> None:
    print(f"largest difference of a probability from the network's: {written.difference:.2g}, for 1 and for 7 images")
    if written.accuracies:
        print("accuracy on {}: {:.2%} in float32, {:.2%} in int8".format(dataset.name, *written.accuracies))
