"""tensors -> logits. The layer is here and needs torch alone; the network of the specification is in `net`."""

from dynconv.layer.conv import DynamicConv2d, Router, sparsemax
from dynconv.layer.convert import convert, fold_batchnorm
from dynconv.layer.mixing import mix_convolutions

__all__ = ["DynamicConv2d", "Router", "convert", "fold_batchnorm", "mix_convolutions", "sparsemax"]
