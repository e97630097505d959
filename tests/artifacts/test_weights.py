import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynconv.artifacts.state import load_state, save_state
from dynconv.artifacts.weights import load_weights, save_weights
from dynconv.config import RunConfig
from dynconv.errors import DynconvError

CONFIG = RunConfig(preset="x", seed=7)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"a": torch.arange(6.0).view(2, 3)}, CONFIG, ("cat", "dog"), "mine")
    return path


def refused(path: Path) -> str:
    with pytest.raises(DynconvError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_come_back_with_all_that_is_needed_to_use_them(weights: Path) -> None:
    loaded = load_weights(weights)

    assert torch.equal(loaded.state["a"], torch.arange(6.0).view(2, 3))
    assert (loaded.config, loaded.classes, loaded.data_name) == (CONFIG, ("cat", "dog"), "mine")
    assert [file.name for file in weights.parent.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])

    assert "truncated" in refused(weights)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "missing" in refused(tmp_path / "none.safetensors")


def test_files_of_others_and_of_newer_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    newer = {"format": 99, "version": "9.0", "config": {}, "classes": [], "data": ""}
    for metadata, reason in (
        (None, "not a weights file of dynconv"),
        ({"dynconv": "{"}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps({"format": 1, "config": {"epochs": -1}})}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps(newer)}, "written by dynconv 9.0, a newer one"),
    ):
        save_file({"a": torch.zeros(1)}, path, metadata)
        assert reason in refused(path)


def test_states_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"epochs": 3, "net": {"a": torch.ones(2)}, "average": None})
    loaded = load_state(path)
    assert loaded["epochs"] == 3 and torch.equal(loaded["net"]["a"], torch.ones(2))

    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DynconvError, match="missing or damaged"):
        load_state(path)


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
