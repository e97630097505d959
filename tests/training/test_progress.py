import io
import re

import pytest
from rich.console import Console

from dynconv.artifacts.records import EpochLine
from dynconv.training import progress as module
from dynconv.training.progress import Progress

EPOCH = EpochLine(
    step=4, epoch=2, image_size=24, train_loss=1.25, train_accuracy=0.5, test_loss=1.5, test_accuracy=0.4321,
    images_per_second=1234.5, seconds=125.0, lr={}, routing=[],
)  # fmt: skip


def test_where_output_is_no_terminal_lines_are_plain(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PLAIN_INTERVAL", -1.0)
    with Progress() as progress:
        progress.start(total_steps=10, epochs=5)
        progress.step(1, 2.5, 0.125, 1000.0)
        progress.epoch(EPOCH)
        progress.epoch(EPOCH, whole=False)

    out, err = capfd.readouterr()
    assert out == "" and "\x1b" not in err
    lines = err.splitlines()
    assert "step 1/10  loss 2.500  1,000 images/s" in lines[0] and "left" in lines[0]
    assert " ".join(lines[1].split()) == "epoch pixels train: loss accuracy test: loss accuracy images/s time"
    assert lines[2].split() == ["2/5", "24", "1.250", "50.00%", "1.500", "43.21%", "1,234", "2:05"]
    assert lines[3] == lines[2] and lines[4] == "interrupted: epoch 2 is not whole"
    assert max(map(len, lines)) < 80


def test_on_a_terminal_a_bar_moves_and_epochs_stay() -> None:
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=120)) as progress:
        progress.start(total_steps=10, epochs=5)
        for step in range(1, 5):
            progress.step(step, 2.5, 0.125, 1000.0)
        progress.epoch(EPOCH)
        progress.step(5, 2.5, 0.375, 1000.0)

    text = screen.getvalue()
    assert "train 37.5% test 43.2%" in text and "1,000 images/s" in text and "elapsed" in text
    assert "  2/5" in text and "loss 2.500" in text


def test_at_80_columns_everything_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 999 epochs of many hours, with a hold-out."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Progress(console) as progress:
        progress.start(total_steps=10, epochs=999)
        progress.epoch(EPOCH.model_copy(update={"validation_loss": 1.25, "validation_accuracy": 0.41}))
        progress._began -= 30_000
        progress.step(5, 2.5, 0.375, 1000.0)
        progress._bar.refresh()
        progress.testing()

    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", screen.getvalue().replace("\r", "\n")).splitlines()
    assert max(len(line) for line in lines) <= 80 and "…" not in screen.getvalue()
    assert "loss 2.500 train 37.5% hold-out 41.0% 500:00 elapsed, 500:00 left" in " ".join(" ".join(lines).split())
    assert "500:00 elapsed, testing" in screen.getvalue()


def test_with_a_hold_out_the_bar_shows_its_accuracy() -> None:
    """The test set is not for choosing by."""
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=120)) as progress:
        progress.start(total_steps=10, epochs=5)
        progress.epoch(EPOCH.model_copy(update={"validation_loss": 1.25, "validation_accuracy": 0.41}))
        progress.step(5, 2.5, 0.375, 1000.0)

    text = screen.getvalue()
    assert "hold-out: loss" in text and "41.00%" in text and "train 37.5% hold-out 41.0%" in text
    assert "43.2" not in text
