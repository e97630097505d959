from matplotlib.figure import Figure

from dynconv.artifacts.records import EpochLine
from dynconv.report import curves


def test_the_curves_show_the_recorded_figures(figures: dict[str, Figure]) -> None:
    epochs = [
        EpochLine(
            epoch=n, step=n, seconds=10.0 * n, lr={"all": 0.1 / n}, image_size=24, train_loss=n / 10, test_loss=n / 10,
            train_accuracy=n / 10, test_accuracy=n / 10, routing=[],
        )
        for n in (1, 2)
    ]  # fmt: skip

    curves.curves(epochs, "title")
    curves.overlay({"one": [epochs, epochs], "two": [epochs]})

    def lines(name: str, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
        drawn = figures[name].axes[panel].lines
        return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn}  # type: ignore[arg-type]

    assert lines("accuracy") == {
        "training (augmented images)": ([1, 2], [10, 20]),
        "test": ([1, 2], [10, 20]),
    }
    assert lines("time")["test"] == ([10, 20], [0.1, 0.2])
    assert lines("schedule") == {"all": ([1, 2], [0.1, 0.05])}
    assert lines("runs-loss", 1)["one (n = 2)"] == ([10, 20], [0.1, 0.2])
