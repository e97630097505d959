"""What `make train` hands on, without making it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "appended"),
    [
        ("quick", " --data auto"),
        ("quick --holdout 5000", " --data auto"),
        ("quick --data shapes", ""),
        ("quick --data=shapes", ""),
        ("--config run.yaml", ""),
        ("--config=run.yaml", ""),
        ("--resume runs/one", ""),
        ("--resume=runs/one", ""),
    ],
)
def test_data_is_added_where_the_words_name_none(words: str, appended: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", "train", f"ARGS={words}"]
    # Under `make test` this make would take itself for a part of that one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, env=environment
    )
    said = result.stdout

    assert said.splitlines()[-1].rstrip().endswith(f"dynconv train {words}{appended}")
