"""The summary of a run that has ended."""

from dynconv.artifacts.records import Summary

SUMMARY = Summary(
    preset="quick", data="shapes", seed=3, epochs=2, epochs_planned=2, finished=True, stopped_by=None,
    test_accuracy=0.9, test_accuracy_tta=None, test_loss=0.5, train_accuracy=0.8, validation_accuracy=None,
    train_seconds=61.2, total_seconds=70.0, parameters=1000, multiply_adds=10**6, precision="fp32",
)  # fmt: skip
