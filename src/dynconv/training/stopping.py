"""What images held out of training decide, never the test set: when training ends, and whose weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dynconv.data import NAMED, Dataset, at_hand
from dynconv.data.find import AUTO
from dynconv.errors import DynconvError
from dynconv.training.config import TrainConfig

PATIENCE, TARGET = "patience", "target"
"""Why a run that has ended early is finished all the same, as its summary names it."""


def require_held_out(config: TrainConfig, dataset: Dataset) -> None:
    """Raises DynconvError where the hold-out is to decide something, and there is none."""
    if dataset.validation is None:
        _refuse_deciding(config, len(dataset.train.labels), len(dataset.classes))


def require_held_out_before_download(config: TrainConfig, source: str) -> None:
    """The same for data that are to be downloaded, where it is known that they have no images for validation."""
    if config.holdout or at_hand(source):
        return
    named = NAMED[next(iter(NAMED)) if source == AUTO else source]
    if named.train_images:
        _refuse_deciding(config, named.train_images, len(named.classes))


def _refuse_deciding(config: TrainConfig, images: int, classes: int) -> None:
    for name in ("patience", "target"):
        if getattr(config, name):
            count = max(images // 10, classes)
            raise DynconvError(f"{name}: is judged on images held out of training; add --holdout {count}, for example")


class Stopping:
    """The best epoch so far by its accuracy on the hold-out, and whether it is time to stop.

    Attributes:
        epoch: number of the best epoch, from 1; 0 before the first. Of equally good ones the first.
        accuracy: its accuracy on the hold-out, 0..1.
        weights: those of that epoch, if they are kept; None otherwise.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._patience, self._target = config.patience, config.target
        self.epoch, self.accuracy = 0, 0.0
        self.weights: Mapping[str, Tensor] | None = None

    def see(self, epoch: int, accuracy: float | None, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """To be told of each whole epoch (from 1); `weights` returns those that it ended with."""
        if accuracy is not None and (not self.epoch or accuracy > self.accuracy):
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = weights() if self._patience else None

    def reason(self, epochs: int) -> str | None:
        """Why to stop after this number of epochs, as the summary names it; None to go on."""
        if self._target and self.epoch and self.accuracy >= self._target:
            return TARGET
        if self._patience and epochs - self.epoch >= self._patience:
            return PATIENCE
        return None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes, for the training state."""
        return {"epoch": self.epoch, "accuracy": self.accuracy, "weights": self.weights and dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any], epochs: int) -> None:
        """Goes on from a saved state, in which this number of epochs was done. Raises ValueError if it does not fit."""
        epoch, weights = state.get("epoch", 0), state.get("weights")
        if epoch > epochs or (self._patience and epochs > 0 and weights is None):
            raise ValueError("the weights of the best epoch are missing")
        self.epoch, self.accuracy = epoch, state.get("accuracy", 0.0)
        self.weights = weights if self._patience else None
