import pytest
import torch

from dynconv.data.dataset import DataError, Dataset, Split, hold_out


def split(labels: list[int]) -> Split:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    return Split(images, torch.tensor(labels))


DATASET = Dataset("toy", ("a", "b", "c"), split([0, 1, 2] * 20), split([0, 1, 2]), "here")


def test_held_out_images_are_balanced_and_leave_the_training_set() -> None:
    held = hold_out(DATASET, 10, seed=3)

    assert held.validation is not None
    assert sorted(held.validation.labels.bincount().tolist()) == [3, 3, 4]
    identity = torch.cat((held.train.images, held.validation.images))[:, 0, 0, 0]
    assert identity.sort().values.tolist() == list(range(60))
    assert torch.equal(held.test.images, DATASET.test.images)


def test_the_images_held_out_of_arrays_are_those_of_every_version() -> None:
    """Figures depend on them."""
    validation = hold_out(DATASET, 10, seed=3).validation
    assert validation is not None
    assert validation.images[:, 0, 0, 0].tolist() == [2, 28, 36, 37, 39, 40, 41, 50, 51, 52]


def test_the_seed_decides_which() -> None:
    def chosen(seed: int) -> list[int]:
        validation = hold_out(DATASET, 9, seed).validation
        assert validation is not None
        return validation.images[:, 0, 0, 0].tolist()

    assert chosen(1) == chosen(1) != chosen(2)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"^holdout: 60 takes 20 images of class 'a', which has 20"):
        hold_out(DATASET, 60, seed=0)


@pytest.mark.parametrize(("labels", "reason"), [([], "empty"), ([0, 3], "run from 0 to 3"), ([-1, 0], "run from -1")])
def test_labels_have_to_name_classes(labels: list[int], reason: str) -> None:
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match=reason):
        Dataset("toy", ("a", "b", "c"), Split(images, torch.tensor(labels, dtype=torch.int64)), DATASET.test, "here")


def test_one_class_is_refused() -> None:
    """Whatever form it was read from: an array, for example, whose labels are all 0."""
    with pytest.raises(DataError, match="here: all images are of one class, 'a'; need two classes or more"):
        Dataset("toy", ("a",), split([0, 0]), split([0]), "here")


def test_images_have_to_be_uint8_rgb() -> None:
    with pytest.raises(DataError, match="uint8"):
        Split(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="labels"):
        Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


def test_a_sample_is_random_images_with_their_labels_each_once() -> None:
    labels = torch.arange(100) // 10  # sorted by class, as class folders are
    data = Split(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous(), labels)
    state = torch.get_rng_state()

    sample = data.sample(30)

    assert len(sample.labels) == 30 and len(sample.labels.unique()) > 5
    assert torch.equal(sample.images[:, 0, 0, 0].long(), sample.labels)
    assert torch.equal(data.sample(30).labels, sample.labels) and not torch.equal(
        data.sample(30, 1).labels, sample.labels
    )
    assert data.sample(1000).labels.sort().values.tolist() == labels.tolist()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("a", "b", "a"), "'a' occurs twice"),
        (("a", "", "c"), "class name 1 is blank"),
        (("a", " ", "c"), "class name 1 is blank"),
        (("a", "b\x1b[31m", "c"), r"'b\\x1b\[31m' cannot be shown"),
        (("a", "b\nc", "c"), r"'b\\nc' cannot be shown"),
        (("a", "cat\udcff", "c"), r"'cat\\xff' cannot be shown"),
        (("a", "\u202egpj", "c"), r"cannot be shown"),
        (("a", None, "c"), "class name 1 is a NoneType"),
        ("abc", "are a str"),
    ],
)
def test_class_names_are_unique_strings_that_can_be_shown(classes: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        Dataset("toy", classes, DATASET.train, DATASET.test, "here")  # type: ignore[arg-type]

    assert str(caught.value).startswith("here: ") and str(caught.value).isprintable()


def test_class_names_of_every_script_are_taken() -> None:
    names = ("\u732b", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f680")

    assert Dataset("toy", names, DATASET.train, DATASET.test, "here").classes == names
