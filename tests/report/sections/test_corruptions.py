from matplotlib.figure import Figure

from dynconv.report.corruptions import CORRUPTIONS
from dynconv.report.sections.corruptions import bars


def test_corruptions_are_bars_from_mild_to_strong(figures: dict[str, Figure]) -> None:
    accuracies = {name: [0.75 - n / 16, 0.5 - n / 16, 0.25 - n / 16] for n, name in enumerate(CORRUPTIONS)}

    bars(0.875, accuracies)

    axes = figures["corruptions"].axes[0]
    found = sorted((bar.get_x(), bar.get_height()) for bar in axes.patches)  # type: ignore[attr-defined]
    assert [height for _, height in found] == [100 * value for values in accuracies.values() for value in values]
    written = [text.get_text() for text in axes.texts]
    assert sorted(written) == sorted(f"{value:g}" for _, strengths, _ in CORRUPTIONS.values() for value in strengths)
    assert axes.lines[-1].get_ydata()[0] == 87.5  # type: ignore[index]
