"""Whether this machine can run the compiled operators."""

import pytest

from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.ops import depthwise, fused, winograd

OPERATORS = {"depthwise": depthwise, "fused": fused, "winograd": winograd}
GROUPED = [("depthwise", 8), ("fused", 1), ("fused", 2), ("fused", 8), ("winograd", 1)]
"""Each operator with numbers of groups, of 8 input channels, that it computes."""
DENSE = [name for name in ALGORITHMS if name != "depthwise"]
"""Algorithms for convolutions of one group."""
EXCUSES = ("no C++ compiler found", "DYNCONV_CPU=none")


def needs_operators(*algorithms: str) -> None:
    """Skips the test where those of `algorithms` that are operators (all, if none is named) are ruled out or no
    compiler is installed. Fails where they should work and do not."""
    for name in algorithms or OPERATORS:
        status = OPERATORS[name].library.status() if name in OPERATORS else "available"
        if status.startswith("available"):
            continue
        if any(excuse in status for excuse in EXCUSES):
            pytest.skip(f"the operator {name} is {status}")
        pytest.fail(f"the operator {name} is {status}")
