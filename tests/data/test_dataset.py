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


def test_the_seed_decides_which() -> None:
    def chosen(seed: int) -> list[int]:
        validation = hold_out(DATASET, 9, seed).validation
        assert validation is not None
        return validation.images[:, 0, 0, 0].tolist()

    assert chosen(1) == chosen(1) != chosen(2)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.holdout: 60 takes 20 images of class 'a', which has 20"):
        hold_out(DATASET, 60, seed=0)


@pytest.mark.parametrize(("labels", "reason"), [([], "empty"), ([0, 3], "run from 0 to 3"), ([-1, 0], "run from -1")])
def test_labels_have_to_name_classes(labels: list[int], reason: str) -> None:
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match=reason):
        Dataset("toy", ("a", "b", "c"), Split(images, torch.tensor(labels, dtype=torch.int64)), DATASET.test, "here")


def test_images_have_to_be_uint8_rgb() -> None:
    with pytest.raises(DataError, match="uint8"):
        Split(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="labels"):
        Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
