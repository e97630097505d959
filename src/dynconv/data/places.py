"""Where data sets are looked for, besides a path that is given."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "DYNCONV_DATA"
"""The environment variable that names a place, which comes before all others."""


def cache_folder() -> Path:
    """The folder for downloaded files: the platform's cache directory for dynconv."""
    return user_cache_path("dynconv")


def usual_places(name: str) -> list[Path]:
    """The folders in which the data set of this name is looked for: its own, then those of all."""
    shared = [Path("data"), cache_folder()]
    return [*(folder / name for folder in shared), *shared]
