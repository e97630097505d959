"""`--micro-batch auto`: as many images at a time as fit into memory."""

import logging
from pathlib import Path

import pytest
import torch
import yaml
from tiny import CONFIG, WORDS

from dynconv.cli.main import main
from dynconv.data import Dataset
from dynconv.data.dataset import Split
from dynconv.errors import DynconvError
from dynconv.training import memory
from dynconv.training.memory import fitting_micro_batch

CPU = torch.device("cpu")


def images(count: int) -> Dataset:
    """A data set of ten classes with so many training images, which nobody looks at."""
    train, test = (
        Split(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)) for n in (count, 1)
    )
    return Dataset("none", tuple("abcdefghij"), train, test, "nowhere")


AUTO = CONFIG.model_copy(update={"micro_batch": "auto", "batch_size": 120})


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Bytes that the system says are free."""
    told: dict[str, int | None] = {"bytes": 10**12}
    monkeypatch.setattr(memory, "available_memory", lambda: told["bytes"])
    return told


@pytest.mark.parametrize("told", [10**12, None], ids=["much", "unknown"])
def test_the_whole_batch_where_it_fits_or_nothing_is_known(free: dict[str, int | None], told: int | None) -> None:
    free["bytes"] = told

    assert fitting_micro_batch(AUTO, images(1000), CPU).micro_batch == 120


def test_the_largest_part_of_a_batch_that_fits(free: dict[str, int | None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fixed, each = memory._needed(AUTO, 10, CPU)
    for count, expected in ((119, 60), (60, 60), (59, 40), (7, 6), (1, 1)):
        free["bytes"] = int((fixed + (count + 0.5) * each) / memory._SHARE)

        assert fitting_micro_batch(AUTO, images(1000), CPU).micro_batch == expected
    assert "micro_batch: 60 images at a time, about 0.1 GB of 0.1 GB available" in caplog.messages


def test_four_times_the_pixels_need_about_four_times_the_memory() -> None:
    (_, small), (_, large) = (
        memory._needed(AUTO.model_copy(update={"image_sizes": (side,)}), 10, CPU) for side in (32, 64)
    )

    assert 3 < large / small < 5


def test_a_small_set_is_one_batch(free: dict[str, int | None]) -> None:
    assert fitting_micro_batch(AUTO, images(7), CPU).micro_batch == 120


def test_each_process_has_an_image(free: dict[str, int | None]) -> None:
    fixed, each = memory._needed(AUTO, 10, CPU)
    free["bytes"] = int((4 * fixed + 5.5 * each) / memory._SHARE)

    assert fitting_micro_batch(AUTO, images(1000), CPU, processes=4).micro_batch == 5
    with pytest.raises(DynconvError, match="with the smallest micro_batch"):
        fitting_micro_batch(AUTO, images(1000), CPU, processes=6)


def test_processes_divide_the_batch_that_there_is(free: dict[str, int | None]) -> None:
    """A batch of all images of a small set may have other divisors than the one that was asked for."""
    fixed, each = memory._needed(AUTO, 10, CPU)
    free["bytes"] = int((fixed + 60.5 * each) / memory._SHARE)
    assert fitting_micro_batch(AUTO, images(100), CPU).micro_batch == 60

    free["bytes"] = int((2 * fixed + 60.5 * each) / memory._SHARE)
    assert fitting_micro_batch(AUTO, images(100), CPU, processes=2).micro_batch == 20


def test_too_little_for_a_single_image_is_one_line(free: dict[str, int | None]) -> None:
    free["bytes"] = 1000

    with pytest.raises(DynconvError, match=r"takes about 0\.1 GB .* lower model\.widths"):
        fitting_micro_batch(AUTO, images(1000), CPU)


def test_running_out_while_it_counts_is_one_line(free: dict[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "_saved_bytes", fail)

    with pytest.raises(DynconvError, match=r"^out of memory with 4 images; lower model\.widths"):
        fitting_micro_batch(AUTO, images(1000), CPU)


def test_all_seeds_have_the_number_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "quick", *WORDS, "--epochs", "1", "--micro-batch", "auto", "--no-report", "--run", str(tmp_path)]
    assert main([*words, "--seeds", "0"]) == 0
    file = tmp_path / "seed0" / "config.yaml"
    file.write_text(file.read_text().replace("micro_batch: 500", "micro_batch: 250"))

    assert main([*words, "--seeds", "0,1"]) == 0

    assert "micro_batch: 250" in (tmp_path / "seed1" / "config.yaml").read_text()


def test_a_number_stays_and_counting_draws_nothing(free: dict[str, int | None]) -> None:
    assert fitting_micro_batch(CONFIG, images(1000), CPU) is CONFIG

    before = torch.get_rng_state()
    fitting_micro_batch(AUTO, images(1000), CPU)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_records_the_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"

    assert main(["train", "quick", *WORDS, "--micro-batch", "auto", "--no-report", "--run", str(run)]) == 0

    assert "images at a time" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["micro_batch"] == 500


@pytest.mark.parametrize("value", ["0", "some", "1.5", "10000000000000000000000"])
def test_a_wrong_value_is_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quick", "--data", "shapes", "--micro-batch", value]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "micro-batch" in line or "micro_batch" in line
