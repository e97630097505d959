"""bytes -> uint8 tensors -> augmented batches."""

# These modules register themselves when imported, in this order: see `registry.NAMED` and `registry.FORMS`.
from dynconv.data import cifar10, cifar100, svhn, stl10, idx, arrays, arrow, folder, table, imagenette, shapes  # noqa: F401, I001
from dynconv.data.dataset import DataError, Dataset, Split, hold_out
from dynconv.data.frame import DataConfig, Frame
from dynconv.data.find import at_hand, found_at, load
from dynconv.data.registry import NAMED

__all__ = ["load", "at_hand", "found_at", "NAMED", "DataConfig", "Frame", "Dataset", "Split", "hold_out", "DataError"]
