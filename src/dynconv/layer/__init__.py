"""The dynamic convolution layer. Needs only torch and imports nothing else from dynconv."""

from dynconv.layer.checkpoints import load_experts, load_router
from dynconv.layer.conv import DynamicConv1d, DynamicConv2d, DynamicConv3d
from dynconv.layer.convert import convert, fold_batchnorm
from dynconv.layer.count import count
from dynconv.layer.exporting import exportable
from dynconv.layer.mixing import mix_convolutions
from dynconv.layer.ops.processor import instruction_sets
from dynconv.layer.routing import Gate, Router, gate, sparsemax
from dynconv.layer.temperature import TemperatureSchedule

__all__ = [
    "DynamicConv1d",
    "DynamicConv2d",
    "DynamicConv3d",
    "Gate",
    "Router",
    "TemperatureSchedule",
    "convert",
    "count",
    "exportable",
    "fold_batchnorm",
    "gate",
    "instruction_sets",
    "load_experts",
    "load_router",
    "mix_convolutions",
    "sparsemax",
]
