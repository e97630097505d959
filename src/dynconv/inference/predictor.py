"""A trained network, ready to use: the only place where a picture becomes the network's input at inference.

predictor = Predictor.load()  # the weights that come with the package
predictor.predict("photo.jpg").label
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynconv.artifacts.found_weights import DEFAULT, find_weights
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import Weights, load_weights
from dynconv.data.frame import Frame
from dynconv.data.image import from_pil, read_image
from dynconv.errors import DynconvError
from dynconv.machine import Precision, autocast, pick_device, pick_precision
from dynconv.model.cost import multiply_adds
from dynconv.model.net import Net, shapes_of
from dynconv.model.tta import batched_logits, tta_logits

Picture = str | Path | BinaryIO | Image.Image | np.ndarray | Tensor
"""What can be classified: a file, a PIL image, an array uint8 [H, W, 3], [H, W, 4] or [H, W], or
a tensor uint8 [3, H, W]."""


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, the most probable first, with their probabilities 0..1."""

    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """That of `label`."""
        return self.top[0][1]


class Predictor:
    """A trained network with its preprocessing and its labels: images in, class probabilities out.

    Attributes:
        net: the network, in evaluation mode. It takes plain uint8 images.
        model: its description.
        classes: their names, in the order of the logits.
        data_name: the data set that it was trained on.
        frame: what pictures become before the network sees them.
        provenance: where the weights come from, for people.
        run: the run directory that it was loaded from; None of a weights file.
        device, precision: where and how it computes.
        configured_precision: auto, fp32, bf16 or fp16, as the weights say.
    """

    def __init__(
        self, net: Net, weights: Weights, device: torch.device, precision: Precision, run: RunDir | None = None
    ) -> None:
        self.net = net.to(device).eval()
        self.model = weights.model
        self.classes = weights.classes
        self.data_name = weights.data_name
        self.frame = weights.frame
        self.provenance = weights.provenance
        self.run = run
        self.device = device
        self.precision = precision
        self.configured_precision = weights.precision

    @classmethod
    def load(cls, run_or_weights: str | Path = DEFAULT, device: str = "auto") -> Self:
        """Loads a run directory, a weights file, or the weights that come with the package.

        Args:
            run_or_weights: a path, or the name of packaged weights, "accurate" or "standard" (a path of that name takes
                precedence).
            device: auto, cpu, cuda or mps.

        Raises:
            DynconvError: there is none of the three, the weights cannot be used, or there is no such device.
        """
        target = pick_device(device)
        path, run = find_weights(run_or_weights)
        weights = load_weights(path)
        net = _network(path, weights)
        return cls(net, weights, target, pick_precision(_trained_precision(run, weights), target)[0], run)

    def logits(self, images_NCHW: Tensor, *, tta: bool = False) -> Tensor:
        """Logits, float32 [N, classes], on the CPU.

        Args:
            images_NCHW: uint8 RGB [N, 3, H, W].
            tta: for unsure images the mean over six views, see `dynconv.model.tta`; more accurate, takes longer.

        Raises:
            ValueError: images of another type or shape.
            DynconvError: a logit is not finite.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] != 3:
            found = f"{str(images_NCHW.dtype).removeprefix('torch.')} {list(images_NCHW.shape)}"
            raise ValueError(f"images: need uint8 [N, 3, H, W], not {found}")
        with autocast(self.device, self.precision):
            logits_NC = batched_logits(self.net, images_NCHW.to(self.device)).cpu()
            if tta:
                logits_NC = tta_logits(
                    logits_NC,
                    images_NCHW,
                    lambda images: batched_logits(self.net, images.to(self.device), views=True).cpu(),
                )
        if not logits_NC.isfinite().all():
            raise DynconvError("the network's output is not finite, so its weights are damaged; train it again")
        return logits_NC

    def probabilities(self, images_NCHW: Tensor, *, tta: bool = False) -> Tensor:
        """Probabilities of the classes, float32 [N, classes], rows sum to 1; arguments as for `logits`."""
        return self.logits(images_NCHW, tta=tta).softmax(1)

    @overload
    def predict(self, images: Picture, *, top: int = ..., tta: bool = ...) -> Prediction: ...

    @overload
    def predict(self, images: list[Picture], *, top: int = ..., tta: bool = ...) -> list[Prediction]: ...

    def predict(
        self, images: Picture | list[Picture], *, top: int = 3, tta: bool = False
    ) -> Prediction | list[Prediction]:
        """The most probable classes of an image, or of each of several.

        Args:
            images: one, or a list; see `Picture`. Those of other sizes become what `frame` says.
            top: how many classes.
            tta: see `logits`.

        Raises:
            DynconvError: a file is not an image that can be read.
            ValueError: an array or a tensor is not what `Picture` says.
        """
        if not isinstance(images, list):
            return self.predict([images], top=top, tta=tta)[0]
        if not images:
            return []
        pixels = torch.stack([to_pixels(image, self.frame) for image in images])
        return self.ranked(self.probabilities(pixels, tta=tta), top)

    def ranked(self, probabilities_NC: Tensor, top: int) -> list[Prediction]:
        """The `top` most probable classes of each row."""
        values, indices = probabilities_NC.topk(min(top, len(self.classes)))
        return [
            Prediction(tuple((self.classes[index], value) for index, value in zip(*row, strict=True)))
            for row in zip(indices.tolist(), values.tolist(), strict=True)
        ]


def to_pixels(image: Picture, frame: Frame, name: str | None = None) -> Tensor:
    """uint8 [3, size, size] of what `Picture` names, as `frame` says; errors call a file `name`.

    Raises as `Predictor.predict` does.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            found = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
            raise ValueError(f"image: a tensor must be uint8 [3, H, W], not {found}")
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"image: an array must be uint8 [H, W, 3], [H, W, 4] or [H, W], not {image.dtype} {list(image.shape)}"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        pixels = from_pil(image, frame)
    else:
        pixels = read_image(Path(image) if isinstance(image, str) else image, name, frame=frame)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _trained_precision(run: RunDir | None, weights: Weights) -> str:
    """What the weights say; in a run, what `auto` stood for when it was trained."""
    with contextlib.suppress(DynconvError):  # a damaged summary does not make the weights useless
        if run and (summary := run.summary()):
            return summary.precision
    return weights.precision


def _network(path: Path, weights: Weights) -> Net:
    """The network with these weights. Raises DynconvError where they do not fit it or cannot be computed with."""
    misfit = f"{path}: these weights do not fit the network that the file describes"
    if len(weights.state) < len(weights.model.widths):  # before time and memory are spent on blocks that are not there
        raise DynconvError(misfit)
    try:
        planned = shapes_of(weights.model, len(weights.classes))
    except ValueError as error:
        raise DynconvError(misfit) from error
    expected = planned.state_dict()
    if {name: tensor.shape for name, tensor in weights.state.items()} != {
        name: tensor.shape for name, tensor in expected.items()
    }:
        raise DynconvError(misfit)
    _check_values(path, weights, expected)
    size = weights.frame.size
    try:
        multiply_adds(planned, size)
    except ValueError as error:
        raise DynconvError(f"{path}: this network cannot take images of {size}x{size} pixels ({error})") from error
    net = Net(weights.model, len(weights.classes))
    net.load_state_dict(weights.state)
    if not net.input.fitted or not (net.input.std > 0).all():
        raise DynconvError(f"{path}: the input statistics were never set, so these weights cannot be used")
    return net


def _check_values(path: Path, weights: Weights, expected: dict[str, Tensor]) -> None:
    for name, tensor in weights.state.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise DynconvError(f"{path}: {name} holds {kind} numbers, which this network cannot use")
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise DynconvError(f"{path}: {name} holds NaN or infinity, so these weights cannot be used")
