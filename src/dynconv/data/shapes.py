"""`shapes`, the built-in generated set: ten kinds of figures, drawn by code. It needs no network and no files.

Images are 32x32 RGB; the class is the figure's shape. Size, colours and the background's gradient are random, as are,
within narrow limits, position, tilt and noise. A figure is lighter than its background as often as darker, so single
pixels say nothing about the class, but a convolutional network learns it within a minute. The set is meant for tests,
demonstrations and machines without CIFAR-10; accuracy on it says nothing about CIFAR-10.

Each figure is a signed distance d(u, v) in its own frame: negative inside, in units of its radius.
"""

from __future__ import annotations

import numpy as np
import torch

from dynconv.data.dataset import Dataset, Split
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set

CLASSES = ("arrow", "bars", "crescent", "cross", "disc", "heart", "ring", "square", "star", "triangle")
TRAIN_IMAGES, TEST_IMAGES = 10_000, 2_000
_SIZE = 32


@data_set("shapes", "generated images", CLASSES)
def shapes(seed: int, _: DataConfig) -> Dataset:
    """The generated set at its usual size."""
    return generate(seed)


def generate(seed: int = 0, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Dataset:
    """The data set for `seed`; training and test images come from separate random streams."""
    train_stream, test_stream = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    return Dataset(
        "shapes",
        CLASSES,
        _draw_split(train_images, train_stream),
        _draw_split(test_images, test_stream),
        f"generated, seed {seed}",
    )


def _draw_split(count: int, rng: np.random.Generator) -> Split:
    labels = np.arange(count) % len(CLASSES)
    rng.shuffle(labels)
    images = np.concatenate([_draw(part, rng) for part in np.array_split(labels, max(1, count // 1000))])
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws uint8 images [N, 3, 32, 32] for labels [N]."""
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    rows, cols = np.mgrid[:_SIZE, :_SIZE].astype(np.float32)
    angle, radius = uniform(-0.2, 0.2, 1, 1), uniform(5, 12, 1, 1)
    x, y = cols - uniform(14, 17, 1, 1), uniform(14, 17, 1, 1) - rows  # up is positive
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    distance = np.stack([figure(u, v) for figure in _FIGURES], 1)[np.arange(n), labels]
    cover = np.clip(0.5 - distance * radius / 2, 0, 1)[:, None]  # the edge is two pixels wide

    background, slope = uniform(0, 1, 3, 1, 1), uniform(-0.02, 0.02, 3, 2)
    canvas = background + slope[:, :, 0, None, None] * (cols - 16) + slope[:, :, 1, None, None] * (rows - 16)
    # The figure differs visibly from the background, in a direction that is independent of its class.
    direction = rng.normal(size=(n, 3, 1, 1)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    canvas = _paint(canvas, cover, np.clip(background + direction * uniform(0.6, 1, 1, 1, 1), 0, 1))
    canvas += rng.normal(size=canvas.shape).astype(np.float32) * uniform(0.002, 0.01, 1, 1, 1)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    painted: np.ndarray = canvas + cover * (colour - canvas)
    return painted


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.9


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.72) - 0.22


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.5, v))


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.78, 0.78)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 1, 0.28), _box(u, v, 0.28, 1))


def _bars(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, np.abs(v) - 0.55, 0.9, 0.26)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) * 0.866 + v * 0.5, -v) - 0.55


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    head = np.maximum(np.abs(u) * 0.8 + v * 0.6 - 0.6, -v)
    return np.minimum(head, _box(u, v + 0.5, 0.22, 0.5))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.72 - 0.3 * np.cos(5 * np.arctan2(v, u))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobes = np.hypot(np.abs(u) - 0.42, v - 0.3) - 0.48
    return np.minimum(lobes, np.maximum(np.abs(u) * 0.72 - v * 0.69 - 0.5, v - 0.35))


_FIGURES = (_arrow, _bars, _crescent, _cross, _disc, _heart, _ring, _square, _star, _triangle)
