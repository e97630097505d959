import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dynconv.model.config import ModelConfig
from dynconv.model.cost import total_multiply_adds
from dynconv.model.net import Net
from dynconv.training.config import TrainConfig
from dynconv.training.cost import training_flop

MODEL = ModelConfig(widths=(8, 16), pools=(2,), experts=(3,))


def test_counts_the_images_of_whole_batches_at_the_sizes_of_their_epochs() -> None:
    config = TrainConfig(epochs=3, batch_size=100, micro_batch=50, image_sizes=(16, 24), model=MODEL)
    net = Net(MODEL, 10)
    small, large = (total_multiply_adds(net, size) for size in (16, 24))

    assert [config.image_size(epoch) for epoch in range(3)] == [16, 16, 24]
    assert training_flop(config, 1099, 10) == 6 * 1000 * (2 * small + large)
    assert training_flop(config, 1099, 10, epochs=1) == 6 * 1000 * small
    assert training_flop(config, 60, 10) == 6 * 60 * (2 * small + large), "fewer images than a batch are one batch"


def test_is_what_torch_counts_in_a_step() -> None:
    """With K = 1, torch counts the same, less scaling the one kernel, which is no convolution to it."""
    model = ModelConfig(widths=(8, 16), pools=(2,), experts=(1,), whiten=False)
    config = TrainConfig(epochs=1, batch_size=4, micro_batch=4, image_sizes=(16,), model=model)
    net = Net(model, 10)
    net.input.fit(torch.rand(4, 3, 16, 16))
    for block in net.backbone:
        block.conv.algorithm = "input"
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(torch.rand(4, 3, 16, 16)), torch.arange(4)).backward()

    scaled = 4 * sum(block.conv.weight.numel() for block in net.backbone)
    first_router = 2 * 4 * 3  # which needs no gradient of the images
    assert training_flop(config, 4, 10) - 6 * scaled - first_router == counter.get_total_flops()


def test_draws_nothing() -> None:
    before = torch.get_rng_state()

    training_flop(TrainConfig(model=MODEL), 1000, 10)

    assert torch.equal(torch.get_rng_state(), before)
