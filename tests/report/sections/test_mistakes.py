import torch

from dynconv.artifacts.predictions import Predictions
from dynconv.report.sections import mistakes


def test_notable_images() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.8, 0.2], [0.3, 0.7]])
    made = Predictions(torch.tensor([1, 0, 1, 1]), probabilities, ("cat", "dog"), "made up")

    assert mistakes.confident_mistakes(made, 5) == [0, 2]
    assert mistakes.least_certain(made, 2) == [1, 3]
