"""bytes -> uint8 tensors -> augmented batches."""

from dynconv.data.dataset import DataError, Dataset, Split, hold_out
from dynconv.data.find import at_hand, load

__all__ = ["DataError", "Dataset", "Split", "at_hand", "hold_out", "load"]
