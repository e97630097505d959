import io

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
    for part in ("2/5", "24 px", "loss 1.250 accuracy 50.00%", "loss 1.500 accuracy 43.21%", "1,234 images/s", "2:05"):
        assert part in lines[1]
    assert "epoch   2/5 (interrupted)" in lines[2]


def test_on_a_terminal_a_bar_moves_and_epochs_stay() -> None:
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=120)) as progress:
        progress.start(total_steps=10, epochs=5)
        for step in range(1, 5):
            progress.step(step, 2.5, 0.125, 1000.0)
        progress.epoch(EPOCH)
        progress.step(5, 2.5, 0.375, 1000.0)

    text = screen.getvalue()
    assert "accuracy 37.5%, test 43.2%" in text and "elapsed" in text
    assert "epoch   2/5" in text and "loss 2.500" in text


def test_with_a_hold_out_the_bar_shows_its_accuracy() -> None:
    """The test set is not for choosing by."""
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=120)) as progress:
        progress.start(total_steps=10, epochs=5)
        progress.epoch(EPOCH.model_copy(update={"validation_accuracy": 0.41}))
        progress.step(5, 2.5, 0.375, 1000.0)

    text = screen.getvalue()
    assert "validation accuracy 41.00%" in text and "accuracy 37.5%, validation 41.0%" in text
