"""The dynamic convolution layer. Needs torch alone and imports nothing else of dynconv."""

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
