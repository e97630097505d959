from pathlib import Path

import pytest
import torch

from dynconv.artifacts.state import load_state, save_state
from dynconv.errors import DynconvError


def test_states_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"epochs": 3, "net": {"a": torch.ones(2)}, "average": None})
    loaded = load_state(path)
    assert loaded["epochs"] == 3 and torch.equal(loaded["net"]["a"], torch.ones(2))

    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DynconvError, match="missing or damaged"):
        load_state(path)


@pytest.mark.parametrize("content", [[], 3, None, {"format": "x"}])
def test_what_is_no_state_is_damaged(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "state.pt")

    with pytest.raises(DynconvError, match="missing or damaged"):
        load_state(tmp_path / "state.pt")


def test_a_state_of_a_newer_version_says_so(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "state.pt")

    with pytest.raises(DynconvError, match="format 99, newer than this dynconv can read"):
        load_state(tmp_path / "state.pt")


def test_a_state_is_not_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    torch.save({"epochs": Harmful()}, tmp_path / "state.pt")

    with pytest.raises(DynconvError):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "owned").exists()


def test_a_directory_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DynconvError, match="cannot be written"):
        save_state(tmp_path / "none" / "state.pt", {})
