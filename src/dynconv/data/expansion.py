"""How much larger than on disk, or than before, data may become in memory."""

from __future__ import annotations

from dynconv.data.dataset import DataError

FREE = 256 << 20
"""Bytes of arrays that any file may hold: 83,000 images of 32x32."""
EXPANSION = 100
"""Maximum expansion relative to the size on disk, beyond `FREE`; photographs deflate to 1/2, drawings to 1/20."""


def largest(size: int) -> int:
    """How many bytes `size` bytes may become in memory."""
    return max(FREE, EXPANSION * size)


def check_expansion(where: str, expanded: int, size: int, instead: str) -> None:
    """Raises DataError if `size` bytes may not become `expanded` bytes in memory; `instead` says what to do."""
    if expanded > largest(size):
        raise DataError(
            f"{where}: would expand from {size:,} to {expanded:,} bytes, more than {EXPANSION} times its size; "
            f"{instead}"
        )
