import pytest
import torch
from matplotlib.figure import Figure

from dynconv.report.sections import calibration
from dynconv.report.sections.calibration import Calibration


def test_an_overconfident_network_is_cooled_to_its_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = torch.randn(4000, 5, generator=generator) * 2
    labels = true_logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    overconfident = (3 * true_logits).log_softmax(1)

    scaled, temperature = calibration.temperature_scaled(overconfident, labels)
    before, after = calibration.calibration(overconfident, labels), calibration.calibration(scaled, labels)

    assert temperature == pytest.approx(3, rel=0.1)
    assert after.error < 0.03 < 0.15 < before.error and after.loss < before.loss
    assert sum(share for _, _, share in after.bins) == pytest.approx(1)
    for confidence, accuracy, share in after.bins:
        if share > 0.05:
            assert abs(confidence - accuracy) < 0.06


def test_no_image_has_a_part_in_its_own_temperature() -> None:
    log_probabilities = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    labels = log_probabilities.argmax(1)
    scaled, _ = calibration.temperature_scaled(log_probabilities, labels)

    other = labels.clone()
    other[7] = (labels[7] + 1) % 3
    changed, _ = calibration.temperature_scaled(log_probabilities, other)

    same = (scaled == changed).all(1)
    assert same[7] and same.sum() == 50  # its own half, whose temperature the other half chose


def test_the_reliability_diagram_shows_each_bin(figures: dict[str, Figure]) -> None:
    before = Calibration(0.2, 1.0, [(0.5, 0.25, 0.5), (0.9, 0.75, 0.5)])
    after = Calibration(0.01, 0.5, [(0.4, 0.375, 1.0)])

    calibration.reliability(before, after)

    lines = {str(line.get_label()): line.get_xydata().tolist() for line in figures["reliability"].axes[0].lines}  # type: ignore[union-attr]
    assert lines["unscaled: ECE 20.0 %"] == [[50, 25], [90, 75]]
    assert lines["temperature scaled: ECE 1.0 %"] == [[40, 37.5]]
    assert lines["perfectly calibrated"] == [[0, 0], [100, 100]]
