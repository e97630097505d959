"""A trained network, ready to use: the only place where an image becomes the network's input at inference."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from dynconv.config import RunConfig
from dynconv.errors import DynconvError
from dynconv.nn.device import Precision, autocast, pick_device, pick_precision
from dynconv.nn.net import Net, build_net
from dynconv.nn.tta import batched_logits
from dynconv.training.checkpoint import Weights, load_weights
from dynconv.training.rundir import RunDir


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
    def load(cls, run_or_weights: str | Path, device: str = "auto") -> Classifier:
        """From a run directory or a weights file.

        Args:
            device: auto, cpu, cuda or mps.

        Raises:
            DynconvError: neither of the two is there, or the file is not what it should be.
        """
        path = Path(run_or_weights)
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
        net = build_net(weights.config.model, len(weights.classes))
        try:
            net.load_state_dict(weights.state)
        except RuntimeError as error:
            raise DynconvError(f"{path}: these weights do not fit the network that they name") from error
        return cls(net, weights, target, pick_precision(precision or weights.config.precision, target)[0])

    def logits(self, images_NCHW: Tensor, *, tta: bool = False) -> Tensor:
        """Logits, float32 [N, classes], on the CPU.

        Args:
            images_NCHW: uint8 RGB [N, 3, H, W].
            tta: the mean over six views, see `dynconv.nn.tta.tta_logits`; more accurate, six times as slow.

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
