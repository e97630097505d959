"""The dynamic convolution layer. Needs only torch and imports nothing else from dynconv."""

from dynconv.layer.conv import DynamicConv2d
from dynconv.layer.convert import convert, fold_batchnorm
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops.processor import instruction_sets
from dynconv.layer.routing import Router, gate, sparsemax

__all__ = [
    "DynamicConv2d",
    "Router",
    "convert",
    "fold_batchnorm",
    "gate",
    "instruction_sets",
    "mix_convolutions",
    "sparsemax",
]
