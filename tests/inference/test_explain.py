from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dynconv.artifacts.weights import Weights
from dynconv.inference import explain
from dynconv.inference.explain import Ablation
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.report.explanation import Explainer

MODEL = ModelConfig(widths=(6, 8), pools=(2,), experts=3, whiten=False, norm="none", nonlinearity="relu")


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    net = Net(MODEL, 4)
    net.input.std.fill_(1)
    net.input.fitted = True  # with a mean of 0 and a standard deviation of 1: the network sees the images as they are
    for block in net.backbone:
        torch.nn.init.normal_(block.conv.router.linear.weight, std=3)
    torch.nn.init.normal_(net.head.linear.weight)
    weights = Weights(net.state_dict(), MODEL, ("a", "b", "c", "d"), "made up")
    return Predictor(net, weights, torch.device("cpu"), "fp32")


@pytest.fixture
def images() -> Tensor:
    colours = torch.randint(0, 230, (600, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    noise = torch.randint(0, 25, (600, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    return (colours + noise).to(torch.uint8)


def test_routing_weights_are_those_that_each_block_mixes_with(predictor: Predictor, images: Tensor) -> None:
    seen: list[Tensor] = []
    for block in predictor.net.backbone:
        block.conv.router.register_forward_hook(lambda _, __, out: seen.append(out))
    predictor.logits(images[:5])

    for found, used in zip(explain.routing_weights(predictor, images[:5]), seen[:2], strict=True):
        torch.testing.assert_close(found, used)


def test_class_means() -> None:
    a_NK = torch.tensor([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])

    means = explain.class_means(a_NK, torch.tensor([0, 0, 2]), 3)

    torch.testing.assert_close(means[0], torch.tensor([0.3, 0.7]))
    assert means[1].isnan().all()
    torch.testing.assert_close(means[2], torch.tensor([1.0, 0.0]))


def test_ablation_measures_what_the_routing_is_worth(predictor: Predictor, images: Tensor) -> None:
    labels = predictor.logits(images).argmax(1)  # by which the network is always right
    routing = explain.routing_weights(predictor, images)
    before = predictor.logits(images)

    accuracy, found = explain.ablate(predictor, images, labels, routing)

    assert accuracy == 1
    assert set(found) == {"mean", "shuffled", "uniform"}
    for ablation in found.values():
        assert 0 < ablation.lost < 1 and ablation.accuracy == pytest.approx(1 - ablation.lost)
        assert ablation.margin == pytest.approx(1.96 * (ablation.lost * ablation.accuracy / 600) ** 0.5)
    assert torch.equal(predictor.logits(images), before)  # the network is as it was


def test_where_all_images_are_routed_alike_nothing_is_lost(predictor: Predictor, images: Tensor) -> None:
    for block in predictor.net.backbone:
        torch.nn.init.zeros_(block.conv.router.linear.weight)
    labels = predictor.logits(images).argmax(1)

    accuracy, found = explain.ablate(predictor, images, labels, explain.routing_weights(predictor, images))

    assert accuracy == 1 and all(ablation.lost == 0 for ablation in found.values())


def test_the_verdict_follows_the_numbers() -> None:
    def verdict(lost: float, experts: int = 2) -> str:
        return explain.verdict(0.9, {"mean": Ablation(0.9 - lost, lost, 0.01)}, experts, 2000)

    assert verdict(0.05).startswith("Routing matters") and "90.00% to 85.00% (-5.00 ± 1.00 points" in verdict(0.05)
    assert verdict(0.005).startswith("Routing makes no measurable difference")
    assert verdict(-0.05).startswith("Routing does harm") and "(+5.00 ±" in verdict(-0.05)
    assert "(+0.00 ±" in verdict(0.0)
    assert "nothing to route" in verdict(0.0, experts=1)


def test_attribution_is_gradient_times_distance_from_the_mean_colour(predictor: Predictor, images: Tensor) -> None:
    predictor.net.input.mean.fill_(128 / 255)
    image = images[0].clone()
    image[:, 3, 4] = 128

    found = explain.attribution(predictor, image, label=2)

    assert found.shape == (16, 16) and found[3, 4] == 0 and found.abs().sum() > 0
    # To first order the logit changes by the pixel's part when the pixel goes towards the mean colour.
    moved = image.float() / 255
    moved[:, 7, 7] += 1e-3 * (128 / 255 - moved[:, 7, 7])
    with torch.no_grad():
        change = predictor.net(moved[None])[0, 2] - predictor.net(image[None].float() / 255)[0, 2]
    assert float(change) == pytest.approx(-1e-3 * float(found[7, 7]), rel=0.1, abs=2e-7)


def test_without_its_data_set_an_image_is_explained_without_class_means(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dynconv")
    Image.new("RGB", (48, 40), (200, 30, 30)).save(tmp_path / "red.png")

    explanation = Explainer(predictor, str(tmp_path / "nowhere")).explain(tmp_path / "red.png")

    assert "nowhere" in caplog.text and explanation.class_routing == []
    assert [a_K.shape for a_K in explanation.routing] == [(3,), (3,)]
    assert explanation.save(tmp_path).name == "red-explained.png"
    assert explanation.save(tmp_path).name == "red-explained-2.png"  # another red.png, from another folder
