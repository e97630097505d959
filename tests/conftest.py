"""Fixtures for all tests: the real CIFAR-10 where it is at hand, and none of the user's own data or settings."""

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import WORDS

from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.layer.ops import depthwise, fused, norm_gelu, pixel_sum, winograd
from dynconv.machine import available_memory, usable_cores

MAKE_CIFAR10 = Path(__file__).resolve().parents[2] / "shared/data/make_cifar10.py"


@pytest.hookimpl(optionalhook=True)  # without xdist, all tests run in this process
def pytest_xdist_auto_num_workers() -> int:
    """One for each core that a container's quota leaves, up to 8, and for each 2 GB of memory."""
    return max(1, min(8, usable_cores(), (available_memory() or 16 << 30) // (2 << 30)))


@pytest.fixture(autouse=True)
def no_data_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)


@pytest.fixture(autouse=True, scope="session")
def algorithms_are_predicted() -> Iterator[None]:
    """Not measured, which would take time and depend on what else the machine does; a test about that unsets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNCONV_NO_MEASURING", "1")
        yield


@pytest.fixture(autouse=True)
def a_terminal_of_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal the tests run in; a test about widths sets its own."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(autouse=True)
def the_command_leaves_no_log_handler() -> Iterator[None]:
    """Run within this process, it installs one on the package's logger, to which later tests would print."""
    logger = logging.getLogger("dynconv")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def shapes_are_drawn_once() -> Iterator[None]:
    """The generated set is the same each time; drawing it takes longer than most of these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "generate", functools.cache(shapes.generate))
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny network on the generated set, with its report. Not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", "quick", *WORDS, "--run", str(run)]) == 0
    logging.getLogger("dynconv").handlers.clear()
    return run


@pytest.fixture(autouse=True, scope="session")
def operators_are_built() -> None:
    """Before the first test, whose output and time the compilation would otherwise be part of."""
    for operator in (depthwise, fused, winograd, norm_gelu, pixel_sum):
        operator.library.available()


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that holds the real 60,000 images in a layout: python, binary, tar or npy."""
    if not MAKE_CIFAR10.exists():
        pytest.skip("the real CIFAR-10 is not at hand: ../shared/data/make_cifar10.py, beside the checkout, writes it")
    made: dict[str, Path] = {}

    def make(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp(layout)
            words = [sys.executable, str(MAKE_CIFAR10), str(made[layout]), "--layout", layout]
            subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        return made[layout]

    return make
