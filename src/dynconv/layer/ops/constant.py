"""Marks functions whose result torch.compile may keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant(function: Function) -> Function:
    """As torch.compiler.assume_constant_result, which would import torch._dynamo: a second, at every start.

    Where torch changes how it marks functions, test_with_torch.py sees another graph for each batch size.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
