"""What a training run computes, whatever the machine."""

from __future__ import annotations

from dynconv.model.cost import total_multiply_adds
from dynconv.model.net import shapes_of
from dynconv.training.config import TrainConfig


def training_flop(config: TrainConfig, images: int, classes: int, epochs: int | None = None) -> float:
    """Floating-point operations of a run's training steps, as docs/protocol.md defines them.

    6 x multiply-adds per image x images seen, at the sizes at which they were seen, mixing the kernels included: 2
    operations per multiply-add, and a backward pass that costs twice the forward pass. Evaluation is not counted.

    Args:
        images: number of training images, without those held out; an epoch skips what does not fill a batch.
        classes: number of classes.
        epochs: number of epochs that were done; by default all of them.

    Raises:
        ValueError: the images are too small for the network.
    """
    net = shapes_of(config.model, classes)
    batch = min(config.batch_size, images)
    seen = images // batch * batch
    sizes = [config.image_size(epoch) for epoch in range(config.epochs if epochs is None else epochs)]
    products = {size: total_multiply_adds(net, size) for size in set(sizes)}
    return float(6 * seen * sum(products[size] for size in sizes))
