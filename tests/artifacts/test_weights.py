import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from dynconv.artifacts.weights import Weights, load_weights, save_weights
from dynconv.errors import DynconvError
from dynconv.model.config import ModelConfig

MODEL = ModelConfig(widths=(8,), pools=(2,))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    state = {"a": torch.arange(6.0).view(2, 3)}
    save_weights(path, Weights(state, MODEL, ("cat", "dog"), "mine", "a run of mine", "bf16"))
    return path


def refused(path: Path) -> str:
    with pytest.raises(DynconvError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def header_of(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["dynconv"])
    return found


def test_weights_come_back_with_all_that_is_needed_to_use_them(weights: Path) -> None:
    loaded = load_weights(weights)

    assert torch.equal(loaded.state["a"], torch.arange(6.0).view(2, 3))
    assert (loaded.model, loaded.classes, loaded.data_name) == (MODEL, ("cat", "dog"), "mine")
    assert loaded.provenance == "a run of mine" and loaded.precision == "bf16"
    assert [file.name for file in weights.parent.iterdir()] == ["weights.safetensors"]


def test_nothing_of_training_is_in_a_weights_file(weights: Path) -> None:
    header = header_of(weights)

    assert header.keys() == {
        "format",
        "model",
        "classes",
        "data",
        "frame",
        "precision",
        "provenance",
        "input",
        "version",
        "checksum",
    }
    assert header["model"].keys() == ModelConfig.model_fields.keys()


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])

    assert "truncated" in refused(weights)


def test_a_flipped_bit_anywhere_is_found(weights: Path) -> None:
    """In a tensor, in a class name, in the description of the network."""
    whole = weights.read_bytes()
    for place in (len(whole) - 1, whole.index(b"cat"), whole.index(b"a run of mine"), whole.index(b"softmax")):
        weights.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "damaged: its content does not match its checksum" in refused(weights)
    weights.write_bytes(whole)
    load_weights(weights)


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read(weights: Path) -> None:
    loaded, header = load_weights(weights), header_of(weights)
    del header["checksum"]
    save_file(dict(loaded.state), weights, {"dynconv": json.dumps(header)})

    assert load_weights(weights).classes == loaded.classes


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.safetensors")


def test_files_of_others_and_of_newer_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = {"version": "9.0", "model": {}, "classes": [], "data": ""}
    precise = {**header, "format": 2, "model": {"widths": [8], "pools": [2]}, "classes": ["x"], "precision": "fp8"}
    unknown = {**header, "format": 2, "model": {"widths": [8], "pools": [2], "attention": True}}
    for metadata, reason in (
        (None, "not a weights file of dynconv"),
        ({"dynconv": "{"}, "not a weights file of dynconv"),
        ({"dynconv": "[" * 100_000}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps({"format": 1, "config": {"epochs": -1}})}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps({**header, "format": 99})}, "written by dynconv 9.0 in format 99, newer than"),
        ({"dynconv": json.dumps(unknown)}, "(model.attention: "),
        ({"dynconv": json.dumps(precise)}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps({**header, "format": 99, "version": "\x1b[1m\n"})}, r"written by dynconv \x1b[1m\n in"),
        ({"dynconv": json.dumps({**unknown, "model": {"\x1b[1m\n": 1}})}, r"(model.\x1b[1m\n: "),
        ({"dynconv": '{"format": 2, "z": ' + "9" * 5000 + "}"}, "not a weights file of dynconv"),
        ({"dynconv": json.dumps({**precise, "precision": "fp32", "data": {}})}, "not a weights file of dynconv"),
    ):
        save_file({"a": torch.zeros(1)}, path, metadata)
        assert reason in refused(path)


def test_a_field_that_a_later_version_added_with_a_default_need_not_be_there(weights: Path) -> None:
    """What is not in the file is the default, so that adding a field leaves every file readable."""
    save_file(
        {"a": torch.zeros(1)},
        weights,
        {
            "dynconv": json.dumps(
                {"format": 2, "model": {"widths": [8], "pools": [2]}, "classes": ["x"], "data": "mine"}
            )
        },
    )

    assert load_weights(weights).model == MODEL


def test_a_frame_that_cannot_be_is_one_line(weights: Path) -> None:
    for frame in ({"size": 0, "fit": "crop"}, {"size": 32, "fit": "x"}, {"side": 32}, "x", None, {"size": 10**9}):
        header = header_of(weights) | {"frame": frame}
        header.pop("checksum", None)
        save_file({"a": torch.zeros(1)}, weights, {"dynconv": json.dumps(header)})

        assert "not a weights file of dynconv" in refused(weights)
