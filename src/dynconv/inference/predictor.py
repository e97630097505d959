"""A trained network, ready to use: the only place where an image becomes the network's input at inference.

classifier = Classifier.load("standard")            # the weights that come with the package
classifier.predict("photo.jpg").label
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

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import Weights, load_weights
from dynconv.config import RunConfig
from dynconv.data.image import from_pil, read_image
from dynconv.errors import DynconvError
from dynconv.machine import Precision, autocast, pick_device, pick_precision
from dynconv.model.net import Net, build_net
from dynconv.model.tta import batched_logits

Picture = str | Path | BinaryIO | Image.Image | np.ndarray | Tensor
"""What can be classified: a file, a PIL image, an array uint8 [H, W, 3] or [H, W], a tensor uint8 [3, H, W]."""

PACKAGED = ("standard",)
"""Names of the weights that come with the package."""


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


class Classifier:
    """Images in, class probabilities out. Preprocessing is part of the network: it takes plain uint8.

    Attributes:
        net: the network, in evaluation mode.
        config: of the run that trained it.
        classes: their names, in the order of the logits.
        data_name: the data set that it was trained on.
    """

    def __init__(self, net: Net, weights: Weights, device: torch.device, precision: Precision) -> None:
        self.net = net.to(device).eval()
        self.config: RunConfig = weights.config
        self.classes: tuple[str, ...] = tuple(weights.classes)
        self.data_name: str = weights.data_name
        self.device = device
        self.precision = precision

    @classmethod
    def load(cls, run_or_weights: str | Path = "standard", device: str = "auto") -> Self:
        """From a run directory, a weights file, or the weights that come with the package.

        Args:
            run_or_weights: a path, or "standard" (a path of that name goes first).
            device: auto, cpu, cuda or mps.

        Raises:
            DynconvError: none of the three is there, or the file is not what it should be.
        """
        path = Path(run_or_weights)
        if str(run_or_weights) in PACKAGED and not path.exists():
            path = packaged_weights(str(run_or_weights))
        precision = None
        if path.is_dir():
            run = RunDir.open(path)
            with contextlib.suppress(DynconvError):  # a damaged summary does not make the weights useless
                precision = (run.summary() or {}).get("precision")  # what `auto` was when it was trained
            path = run.weights
            if not path.exists():
                raise DynconvError(f"{run.path}: the run has no weights yet; they are written when it ends")
        weights = load_weights(path)
        target = pick_device(device)
        try:
            net = build_net(weights.config.model, len(weights.classes))
            net.load_state_dict(weights.state)
        except (RuntimeError, ValueError) as error:
            raise DynconvError(f"{path}: these weights do not fit the network that they name") from error
        return cls(net, weights, target, pick_precision(precision or weights.config.precision, target)[0])

    def logits(self, images_NCHW: Tensor, *, tta: bool = False) -> Tensor:
        """Logits, float32 [N, classes], on the CPU.

        Args:
            images_NCHW: uint8 RGB [N, 3, H, W].
            tta: the mean over six views, see `dynconv.model.tta.tta_logits`; more accurate, six times as slow.

        Raises:
            ValueError: images of another type or shape.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] != 3:
            found = f"{str(images_NCHW.dtype).removeprefix('torch.')} {list(images_NCHW.shape)}"
            raise ValueError(f"images: need uint8 [N, 3, H, W], not {found}")
        with autocast(self.device, self.precision):
            return batched_logits(self.net, images_NCHW.to(self.device), tta=tta).cpu()

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
            images: one, or a list; see `Picture`. What becomes of other sizes is said in `dynconv.data.image`.
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
        pixels = torch.stack([to_pixels(image) for image in images])
        return self.ranked(self.probabilities(pixels, tta=tta), top)

    def ranked(self, probabilities_NC: Tensor, top: int) -> list[Prediction]:
        """The `top` most probable classes of each row."""
        values, indices = probabilities_NC.topk(min(top, len(self.classes)))
        return [
            Prediction(tuple((self.classes[index], value) for index, value in zip(*row, strict=True)))
            for row in zip(indices.tolist(), values.tolist(), strict=True)
        ]


def to_pixels(image: Picture, name: str | None = None) -> Tensor:
    """uint8 [3, 32, 32] of what `Picture` names; errors call a file `name`. Raises as `Classifier.predict` does."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            found = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
            raise ValueError(f"image: a tensor must be uint8 [3, H, W], not {found}")
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"image: an array must be uint8 [H, W, 3] or [H, W], not {image.dtype} {list(image.shape)}"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        pixels = from_pil(image)
    else:
        pixels = read_image(Path(image) if isinstance(image, str) else image, name)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def packaged_weights(name: str) -> Path:
    """The weights file called `name` that comes with the package."""
    return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
