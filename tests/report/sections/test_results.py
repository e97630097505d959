import numpy as np
import torch
from matplotlib.figure import Figure

from dynconv.artifacts.predictions import Predictions
from dynconv.report import results
from dynconv.report.sections.results import confusion


def test_the_confusion_shows_counts_and_colours_mistakes(figures: dict[str, Figure]) -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 2])
    made = Predictions(labels, torch.eye(3)[predicted], ("cat", "dog", "owl"), "made up")

    confusion(results.results(made))

    axes = figures["confusion"].axes[0]
    counts = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert counts == {
        (0, 0): "2", (0, 1): "1", (0, 2): "0", (1, 0): "1", (1, 1): "1", (1, 2): "0", (2, 0): "0", (2, 1): "0",
        (2, 2): "1",
    }  # fmt: skip
    shares = np.ma.filled(axes.collections[0].get_array(), np.nan).reshape(3, 3)
    np.testing.assert_allclose(shares, [[np.nan, 100 / 3, 0], [50, np.nan, 0], [0, 0, np.nan]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
