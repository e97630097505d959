"""Explains one image: the prediction, the routing of each block beside the class mean, and the pixels that matter."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dynconv.artifacts.files import write_atomically
from dynconv.errors import DynconvError
from dynconv.inference import class_routing, explain
from dynconv.inference.predictor import Predictor, to_pixels
from dynconv.inference.trained_data import load_dataset
from dynconv.report.plot import COLOURS, draw, ink

logger = logging.getLogger(__name__)

_TOP = 3


@dataclass(frozen=True)
class Explanation:
    """What the network did with one image.

    Attributes:
        image: uint8 [3, H, W], as the network sees it.
        probabilities: float32 [classes].
        routing: a of each block, [K].
        class_routing: the mean a of the predicted class, [K] for each block; empty if the data set was not found.
        attribution: gradient x input of the predicted class's logit, [H, W].
    """

    path: Path
    classes: tuple[str, ...]
    image: Tensor
    probabilities: Tensor
    routing: list[Tensor]
    class_routing: list[Tensor]
    attribution: Tensor

    @property
    def predicted(self) -> str:
        """The name of the class that comes first."""
        return self.classes[int(self.probabilities.argmax())]

    def table(self) -> RenderableType:
        """The explanation as a table for the terminal."""
        values, indices = self.probabilities.topk(min(_TOP, len(self.classes)))
        first = ", ".join(
            f"{self.classes[index]} {value:.1%}" for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        )
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("block")
        table.add_column("routing weights")
        if self.class_routing:
            table.add_column(Text(f"mean of {self.predicted}"))
        for number, a_K in enumerate(self.routing):
            means = [_numbers(self.class_routing[number])] if self.class_routing else []
            table.add_row(str(number + 1), _numbers(a_K), *means)
        return Group(Text(f"{self.path}: {first}", style="bold"), table)

    def save(self, folder: Path) -> Path:
        """Draws the explanation into folder/<image>-explained.png, with a number added if that file exists.

        Raises:
            DynconvError: the file cannot be written.
        """
        path, number = folder / f"{self.path.stem}-explained.png", 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while path.exists():
                number += 1
                path = folder / f"{self.path.stem}-explained-{number}.png"
        except OSError as error:
            raise DynconvError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
        picture = draw("explanation", f"{self.path.name} explained", self._paint, 9, 3.2).png
        write_atomically(path, lambda file: file.write_bytes(picture))
        return path

    def _paint(self, figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.7))
        left.imshow(self.image.permute(1, 2, 0).numpy())
        left.set_title(f"{self.predicted} {float(self.probabilities.max()):.1%}")
        limit = float(self.attribution.abs().max()) or 1.0
        shown = middle.imshow(self.attribution.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit)
        middle.set_title(f"evidence for {self.predicted}")
        bar = figure.colorbar(shown, ax=middle, shrink=0.7, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["against", "0", "for"])
        for axes in (left, middle):
            axes.set_axis_off()
        experts = max(map(len, self.routing))
        width = 0.8 / experts
        blocks = np.arange(len(self.routing))
        for k in range(experts):
            here = [block for block, a_K in enumerate(self.routing) if k < len(a_K)]
            places = blocks[here] + (k - (experts - 1) / 2) * width
            heights = [float(self.routing[block][k]) for block in here]
            right.bar(places, heights, width * 0.9, color=COLOURS[k % len(COLOURS)], label=f"expert {k + 1}")
            if self.class_routing:
                means = [float(self.class_routing[block][k]) for block in here]
                label = f"mean of {self.predicted}" if k == 0 else None
                style = {"linestyle": "none", "marker": "_", "markersize": 12, "color": ink()}
                right.plot(places, means, label=label, **style)
        right.set_xticks(blocks, labels=[str(number + 1) for number in blocks])
        right.set(xlabel="block", ylabel="routing weight")
        right.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))  # where it hides nothing


class Explainer:
    """Explains the predictions of a trained network, and compares their routing with the mean routing of each class.

    Args:
        data: where the data set is; by default the run's own source. If it is not found, there are no class means.
    """

    def __init__(self, predictor: Predictor, data: str | None) -> None:
        self._predictor = predictor
        self._means: list[Tensor] = []
        try:
            self._means = class_routing.measure(predictor, load_dataset(predictor, data).test)
        except DynconvError as error:
            logger.info("no class means: %s", error)

    def explain(self, path: Path) -> Explanation:
        """Explains one image file. Raises DynconvError if `path` cannot be read as an image."""
        image = to_pixels(path, self._predictor.frame)
        probabilities = self._predictor.probabilities(image[None])[0]
        label = int(probabilities.argmax())
        return Explanation(
            path=path,
            classes=self._predictor.classes,
            image=image,
            probabilities=probabilities,
            routing=[a_1K[0] for a_1K in explain.routing_weights(self._predictor, image[None])],
            class_routing=[mean_CK[label] for mean_CK in self._means],
            attribution=explain.attribution(self._predictor, image, label),
        )


def _numbers(a_K: Tensor) -> str:
    return "  ".join(f"{value:.3f}" for value in a_K.tolist())
