"""A preset fitted to images of another size and number than CIFAR-10's."""

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynconv import api
from dynconv.data import Dataset, Split
from dynconv.data.frame import Frame
from dynconv.inference.predictor import Predictor
from dynconv.inference.trained_data import load_dataset
from dynconv.model.config import PER_BLOCK, ModelConfig
from dynconv.model.describe import rows
from dynconv.training.config import TrainConfig
from dynconv.training.presets import PRESETS, override
from dynconv.training.suited import grown, suited


def dataset(images: int = 10, size: int = 32) -> Dataset:
    """Images are shared memory: their number costs nothing."""
    labels = torch.arange(images) % 2
    pictures = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(images, 3, size, size)
    split = Split(pictures, labels)
    return Dataset("toy", ("a", "b"), split, split, "here", frame=Frame(size))


@pytest.mark.parametrize("preset", PRESETS)
def test_cifar10_is_trained_as_the_preset_says(preset: str) -> None:
    config = PRESETS[preset]()

    found = suited(config, dataset(50_000), chosen=())

    assert found.changes == [] and found.config.data.size == 32
    assert found.config == config.model_copy(update={"data": found.config.data})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [48, 64, 96, 128, 160, 224, 384])
def test_the_first_block_of_a_preset_sees_maps_of_24_to_48_pixels(preset: str, size: int) -> None:
    config = PRESETS[preset]()

    found = suited(config, dataset(50_000, size), chosen=()).config

    extra = len(found.model.widths) - len(config.model.widths)
    assert found.model.widths[extra:] == config.model.widths
    assert rows(found.model, 2, size, found.image_sizes)  # it can be built
    assert 24 <= size / 2**extra <= 48
    assert found.image_sizes[-1] == size == max(found.image_sizes)
    assert found.batch_size % found.micro_batch == 0
    assert found.micro_batch * size**2 <= max(500 * 64**2, 25 * size**2)


@given(
    images=st.integers(2, 30_000),
    size=st.sampled_from([24, 32, 64, 128]),
    preset=st.sampled_from(list(PRESETS)),
    micro_batch=st.sampled_from([0, 20, 25, 50, 100, 125, 250, 500]),
)
def test_what_is_trained_can_be_read_again(images: int, size: int, preset: str, micro_batch: int) -> None:
    """A run is continued from its configuration, with the parts of a batch that a person has set as well."""
    config, chosen = PRESETS[preset](), []
    if micro_batch and config.batch_size % micro_batch == 0:
        config, chosen = config.model_copy(update={"micro_batch": micro_batch}), ["micro_batch"]

    found = suited(config, dataset(images, size), chosen).config

    assert TrainConfig.model_validate(found.model_dump()) == found
    assert found.micro_batch == micro_batch or not chosen


def test_what_a_person_has_set_stays(caplog: pytest.LogCaptureFixture) -> None:
    fields = {
        "image_sizes": [40], "batch_size": 10, "epochs": 3, "model": {"widths": [8, 8], "pools": [2]},
        "augment": {"translate": 1},
    }  # fmt: skip
    chosen = ["image_sizes", "batch_size", "epochs", "model.widths", "model.pools", "augment.translate"]
    config = override(PRESETS["quick"](), fields)

    found = suited(config, dataset(300, 128), chosen).config

    assert found == config.model_copy(update={"data": found.data})


def test_a_number_of_experts_is_no_shape_of_the_network() -> None:
    config = override(PRESETS["quick"](), {"model": {"experts": 4}})

    found = suited(config, dataset(50_000, 128), ["model.experts"]).config

    assert len(found.model.widths) == 8 and found.model.experts == (4,)


def test_few_images_are_trained_in_small_batches_for_many_epochs() -> None:
    found = suited(PRESETS["quick"](), dataset(300), chosen=())

    assert found.config.batch_size == found.config.micro_batch == 25
    assert 400 <= found.config.epochs * (300 // 25) <= 700
    assert found.changes == [f"for 300 training images: batches of 25, {found.config.epochs} epochs"]
    fewest = suited(PRESETS["quick"](), dataset(12), chosen=()).config
    assert fewest.batch_size == fewest.micro_batch == 8
    kept = suited(PRESETS["quick"](), dataset(300), chosen=["epochs"]).config
    assert kept.epochs == PRESETS["quick"]().epochs and kept.batch_size == 25


@given(
    st.integers(1, 4),
    st.integers(1, 4).flatmap(
        lambda n: st.fixed_dictionaries({
            "widths": st.lists(st.sampled_from([8, 32, 64]), min_size=n, max_size=n),
            "pools": st.lists(st.sampled_from([1, 2]), min_size=n, max_size=n),
            "experts": st.lists(st.integers(1, 3), min_size=n, max_size=n),
            "residual": st.sampled_from([[False], [True], [False] * n]),
        })
    ),
)  # fmt: skip
def test_a_grown_network_halves_its_image_that_often_and_goes_on_as_before(
    blocks: int, fields: dict[str, list]
) -> None:
    model = ModelConfig(**fields)

    found = grown(model, blocks)

    for name in PER_BLOCK:
        if len(model.residual) > 1 or name != "residual":
            assert found.per_block(name)[blocks:] == model.per_block(name)
    factors = [stride * pool for stride, pool in zip(found.per_block("strides"), found.per_block("pools"), strict=True)]
    assert factors[:blocks] == [2] * blocks


def test_photographs_are_trained_on_evaluated_and_predicted_at_their_size(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights say how pictures are read, and whatever uses them obeys."""
    with caplog.at_level(logging.INFO):
        run = api.train(
            data=photos, run=tmp_path / "run", fit="pad", epochs=1, tta=False, batch_size=8,
            model={"widths": [8, 8], "pools": [4]},
        )  # fmt: skip

    predictor = Predictor.load(run.path)
    assert predictor.frame == Frame(64, "pad")
    assert any("for images of 64x64 pixels: trained at 64 pixels" in line for line in caplog.messages)
    test = load_dataset(predictor).test
    assert test.images.shape[1:] == (3, 64, 64)
    file = next(iter(sorted((photos / "test").glob("*/*.png"))))
    expected = predictor.ranked(predictor.probabilities(test.images[:1]), 2)[0]
    assert predictor.predict(file, top=2) == expected
    assert run.config["data"] == {"size": 64, "fit": "pad"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of pictures of 70x64 pixels."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            for number in range(count):
                path = tmp_path / "photos" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = torch.randint(0, 100, (64, 70, 3), generator=generator) + 120 * label
                Image.fromarray(noise.byte().numpy()).save(path)
    return tmp_path / "photos"


def test_a_run_of_an_earlier_version_reads_its_images_as_it_did(photos: Path, tmp_path: Path) -> None:
    import yaml

    from dynconv.artifacts.rundir import RunDir
    from dynconv.training.launch import config_of

    run = api.train(data="shapes", run=tmp_path / "run", epochs=1, tta=False, batch_size=500, image_sizes=[8],
                    model={"widths": [4], "pools": [4]})  # fmt: skip
    tree = yaml.safe_load((run.path / "config.yaml").read_text())
    del tree["data"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(tree))

    assert config_of(RunDir.open(run.path)).data.size == 32
    assert TrainConfig().data.size == "auto"
