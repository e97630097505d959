"""A run that nobody trained, on few generated images, for what is exported from it."""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from untrained import PLAIN, write_run

from dynconv.data import shapes


@pytest.fixture(scope="module")
def few_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "generate", cache(partial(shapes.generate, train_images=600, test_images=120)))
        yield


@pytest.fixture(scope="module")
def run(few_images: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one", PLAIN)
