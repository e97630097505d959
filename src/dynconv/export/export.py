"""A trained network -> a file for other runtimes, which includes the preprocessing and is checked after writing.

The file takes any number of uint8 images and returns logits and probabilities, float32. ONNX is for onnxruntime and
other runtimes, pt2 for `torch.export.load`. The file's metadata (`dynconv.json` in a pt2 file) holds the class names
and a description.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from dynconv.artifacts.files import write_atomically
from dynconv.data import Dataset
from dynconv.errors import DynconvError
from dynconv.export import onnx_file, parity
from dynconv.export.parity import Runner
from dynconv.inference.predictor import Predictor
from dynconv.layer.conv import DynamicConv
from dynconv.model.net import Net

Format = Literal["onnx", "pt2"]
Layout = Literal["nhwc", "nchw"]
CALIBRATION = 512
"""Number of training images on which the ranges for int8 are measured."""


class Exported(nn.Module):
    """The network in the file: images uint8 [N, H, W, 3] or [N, 3, H, W] -> logits, probabilities [N, classes].

    With `routing`, the routing weights of each block, [N, K], follow.

    Every mixture is computed as K convolutions whose outputs are combined. A grouped convolution with one group per
    image would fix the batch size: https://github.com/onnx/onnx/issues/3843
    """

    def __init__(self, net: Net, layout: Layout, routing: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).float().cpu().eval().requires_grad_(False)
        self.layout = layout
        self.routing = routing
        for module in self.net.modules():
            if isinstance(module, DynamicConv):
                module.algorithm = "output"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x_NCHW = self.net.input(images.permute(0, 3, 1, 2) if self.layout == "nhwc" else images)
        weights = []
        for block in self.net.backbone:
            if self.routing:
                weights.append(block.conv.routing_weights(x_NCHW))  # the runtime merges this with the block's own
            x_NCHW = block(x_NCHW)
        logits = self.net.head(x_NCHW)
        return logits, logits.softmax(1), *weights


@dataclass(frozen=True)
class Written:
    """A file that was written and checked.

    Attributes:
        path: path of the file.
        difference: the largest difference of a probability from the network's.
        accuracies: accuracy of the float32 and of the int8 file on the test images, 0..1; None unless the file is int8.
    """

    path: Path
    difference: float
    accuracies: tuple[float, float] | None


def target(run: Path, form: Format, int8: bool, output: Path | None = None) -> Path:
    """Where the file goes: `output`, else model.onnx in the run, else a file here named after the weights.

    Raises:
        DynconvError: no file can be written there, or it lacks the format's extension, which is required so that
            weights and pictures are not replaced by mistake.
    """
    ending = f"{'-int8' if int8 else ''}.{form}"
    path = output or (run / f"model{ending}" if run.is_dir() else Path(f"{run.stem}{ending}"))
    if path.is_dir():
        raise DynconvError(f"{path}: is a folder; name a file in it: --output {path / f'model{ending}'}")
    if path.suffix != f".{form}":
        raise DynconvError(f"{path}: must end in .{form} for --format {form}")
    if not path.parent.is_dir():
        raise DynconvError(f"{path}: there is no folder {path.parent}; create it, or choose another --output")
    return path


def export(
    predictor: Predictor, dataset: Dataset, path: Path, form: Format, layout: Layout, *, int8: bool = False
) -> Written:
    """Writes the file, compares its outputs with the network's, and keeps it only if they agree.

    Args:
        dataset: see `build`.
        path: an existing file is replaced once the new one is complete and correct.
        int8: quantise; needs the format onnx.

    Raises:
        DynconvError: as `build`, or the file cannot be written.
    """
    built = build(predictor, dataset, form, layout, int8=int8)

    def write(file: Path) -> None:
        file.write_bytes(built.content)
        built.check(file.read_bytes())

    write_atomically(path, write)
    return Written(path, built.difference, built.accuracies)


@dataclass(frozen=True)
class Built:
    """The content of a file that was checked.

    Attributes:
        difference, accuracies: as in `Written`.
        check: takes what was read back, and raises DynconvError if it does not compute the same.
    """

    content: bytes
    difference: float
    accuracies: tuple[float, float] | None
    check: Callable[[bytes], object]


def build(
    predictor: Predictor, dataset: Dataset, form: Format, layout: Layout, *, int8: bool = False, routing: bool = False
) -> Built:
    """The content of the file, with outputs that agree with the network's.

    Args:
        dataset: its test images are used for the comparison and set the image size; for int8, its training images are
            used for calibration.
        int8: quantise; needs the format onnx.
        routing: has the file return the routing weights, too; see `Exported`.

    Raises:
        DynconvError: packages are missing, there are fewer than seven test images, or the outputs differ from the
            network's.
    """
    most = max(parity.BATCHES)
    images = _spread(dataset.test.images, most)
    if len(images) < most:
        raise DynconvError(f"{dataset.origin}: the check needs {most} test images, but there are {len(images)}")
    program, about = trace(predictor.net, images, layout, routing), _about(predictor, images, layout, routing)
    describe = partial(onnx_file.describe, onnx_file.convert(program)) if form == "onnx" else partial(_pt2, program)
    tolerance = None if int8 else parity.TOLERANCE
    accuracies = None
    if int8:
        whole, calibration = describe(about), _spread(dataset.train.images, CALIBRATION)
        describe = partial(onnx_file.describe, onnx_file.quantize(whole, _arranged(calibration, layout)))
        before, after = (_load(content, form, layout) for content in (whole, describe(about)))
        accuracies = parity.accuracy(before, dataset.test), parity.accuracy(after, dataset.test)
        figures = dict(zip(("accuracy_float32", "accuracy_int8"), accuracies, strict=True))
        about["int8"] = {"calibration_images": len(calibration), "test_images": len(dataset.test.labels)} | figures

    def check(content: bytes) -> float:
        return parity.compare(_load(content, form, layout), predictor, images, tolerance)

    difference = check(describe(about))
    about["checked"] = {"batches": parity.BATCHES, "data": dataset.name, "largest_difference": difference}
    return Built(describe(about), difference, accuracies, check)


def trace(net: Net, images_NCHW: Tensor, layout: Layout, routing: bool = False) -> torch.export.ExportedProgram:
    """The network with its preprocessing as a program for any number of images, traced with two of `images_NCHW`."""
    example = _arranged(images_NCHW[:2], layout)  # with one image, torch would fix the batch size at 1
    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Exported(net, layout, routing), (example,), dynamic_shapes=batch)
    for graph in (part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)):
        for node in graph.nodes:
            node.meta.pop("stack_trace", None)  # contains local paths, which must not be published
    return program


def _about(predictor: Predictor, images_NCHW: Tensor, layout: Layout, routing: bool) -> dict[str, Any]:
    """The file's metadata, without local paths."""
    height, width = images_NCHW.shape[2:]
    shape = f"{height}, {width}, 3" if layout == "nhwc" else f"3, {height}, {width}"
    return {
        "classes": list(predictor.classes),
        "input": f"images: uint8 [N, {shape}], RGB, 0 to 255; normalised by the network itself",
        "outputs": "logits, probabilities: float32 [N, classes]"
        + ("; routing_1, routing_2, ...: float32 [N, experts], one for each block" if routing else ""),
        "data": predictor.data_name,
        "model": predictor.model.model_dump(mode="json"),
        "provenance": predictor.provenance,
        "version": version("dynconv"),
    }


def _load(content: bytes, form: Format, layout: Layout) -> Runner:
    """A function that runs a file's content on the CPU, with onnxruntime or torch."""
    run = onnx_file.runner(content) if form == "onnx" else torch.export.load(io.BytesIO(content)).module()

    def run_NCHW(images_NCHW: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(run(_arranged(images_NCHW, layout)))

    return run_NCHW


def _pt2(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"dynconv.json": json.dumps(about)})
    return buffer.getvalue()


def _arranged(images_NCHW: Tensor, layout: Layout) -> Tensor:
    return images_NCHW.permute(0, 2, 3, 1).contiguous() if layout == "nhwc" else images_NCHW.contiguous()


def _spread(images: Tensor, count: int) -> Tensor:
    """At most `count` images, evenly spaced: data from class folders is ordered by class."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
