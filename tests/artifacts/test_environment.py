import sys

import pytest

from dynconv.artifacts.environment import command_line


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("postgresql://me:s3cret@host:5432/name", "postgresql://me:***@host:5432/name"),
        ("mysql+pymysql://me:a:b@c@host/name", "mysql+pymysql://me:***@host/name"),
        ("--storage=postgresql://me:s3cret@host/name", "--storage=postgresql://me:***@host/name"),
        ("postgresql://me@host:5432/name", "postgresql://me@host:5432/name"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
    ],
)
def test_the_recorded_command_holds_no_password(monkeypatch: pytest.MonkeyPatch, url: str, recorded: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/dynconv", "sweep", "file.yaml", url])

    assert command_line().replace("'", "") == f"dynconv sweep file.yaml {recorded}"
