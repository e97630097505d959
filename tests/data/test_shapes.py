import torch
from torch.nn import functional as F

from dynconv.data import shapes


def test_the_seed_decides_everything() -> None:
    first, again, other = (shapes.generate(seed, 200, 100) for seed in (1, 1, 2))

    assert torch.equal(first.train.images, again.train.images) and torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.train.images, other.train.images)
    assert first.name == "shapes" and len(first.classes) == 10 and first.train.images.shape == (200, 3, 32, 32)
    assert first.train.labels.bincount().tolist() == [20] * 10


def test_a_linear_classifier_stays_under_60_percent() -> None:
    """Ridge regression on the pixels, the best of several strengths on the test images: an optimistic figure."""
    dataset = shapes.generate(0, 5000, 1000)
    x, test = ((split.images.flatten(1).float() / 255 - 0.5) for split in (dataset.train, dataset.test))
    target = F.one_hot(dataset.train.labels, 10).float() - 0.1
    gram = x.T @ x
    best = 0.0
    for strength in (1e1, 1e2, 1e3):
        weights = torch.linalg.solve(gram + strength * torch.eye(len(gram)), x.T @ target)
        best = max(best, float(((test @ weights).argmax(1) == dataset.test.labels).float().mean()))

    assert 0.1 < best < 0.6
