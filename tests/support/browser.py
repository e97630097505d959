"""The browser in which the pages are tested."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The path of a Chromium: of the one that the variable CHROMIUM names, or else of any that is installed."""
    named = os.environ.get("CHROMIUM")
    for name in (named,) if named else NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: apt install chromium, or name it in CHROMIUM; not tested: the pages in a browser")
