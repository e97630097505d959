"""What `make train` hands on, without making it."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "appended"),
    [
        ("quick", " --data auto"),
        ("quick --data.holdout 5000", " --data auto"),
        ("quick --data shapes", ""),
        ("quick --data=shapes", ""),
        ("quick --data.source shapes", ""),
        ("quick --data.source=shapes", ""),
        ("--config run.yaml", ""),
        ("--config=run.yaml", ""),
        ("--resume runs/one", ""),
        ("--resume=runs/one", ""),
    ],
)
def test_data_is_added_where_the_words_name_none(words: str, appended: str) -> None:
    command = ["make", "--dry-run", "train", f"ARGS={words}"]
    said = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout

    assert said.splitlines()[-1].rstrip().endswith(f"dynconv train {words}{appended}")
