"""What the compiled operators cost, for torch's own counter, `torch.utils.flop_counter.FlopCounterMode`.

Without a formula the counter takes a custom operator for nothing. The formulas count as torch counts the algorithm
`kernel`: two operations per multiply-add, of mixing one kernel per image and of convolving with it. `winograd` needs
fewer; it is counted as what it replaces, as torch counts oneDNN's and cuDNN's own Winograd convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def register_flops(name: str) -> None:
    """Gives dynconv::NAME and dynconv::NAME_backward, which `ops.operator.Operator` has defined, their formulas."""
    operators = torch.ops.dynconv
    register_flop_formula(getattr(operators, name))(_forward)
    register_flop_formula(getattr(operators, f"{name}_backward"))(_backward)


def _mixing(weight: Shape, routing: Shape) -> int:
    return 2 * math.prod(routing) * math.prod(weight[1:])


def _convolution(weight: Shape, out: Shape) -> int:
    return 2 * math.prod(out) * math.prod(weight[2:])


def _forward(x: Shape, weight: Shape, routing: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _mixing(weight, routing) + _convolution(weight, out_shape)


def _backward(grad: Shape, x: Shape, weight: Shape, routing: Shape, *rest: Any, **__: Any) -> int:
    """The gradients that are needed: of the input; of the mixed kernels, and from these of experts and routing."""
    input_grad, bank_grad = rest[-2:]
    return 2 * bank_grad * _mixing(weight, routing) + (input_grad + bank_grad) * _convolution(weight, grad)
