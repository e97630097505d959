"""Whether this machine can run the compiled operators."""

import pytest

from dynconv.layer.ops import fused, winograd


def needs_operators() -> None:
    for operator in (fused, winograd):
        if not operator.available():
            pytest.skip(f"an operator is {operator.status()}")
