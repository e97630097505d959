"""`dynconv bench serve`, briefly."""

import json
import sys
from pathlib import Path

import pytest

from dynconv.artifacts.weights import Weights, save_weights
from dynconv.bench import serve
from dynconv.cli.main import main


def test_the_load_test_states_requests_and_latency_of_both_handlings(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tmp_path / "tiny.safetensors", tmp_path / "serve.json"
    save_weights(model, weights)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "SECONDS", 0.2)
    monkeypatch.setattr(serve, "CONCURRENCY", (1, 8))

    words = ["--model", str(model), "--rounds", "1", "--output", str(output), "--allow-uncommitted"]
    assert main(["bench", "serve", *words]) == 0

    cells = json.loads(output.read_text())["cells"]
    assert [(cell["clients"], cell["handling"]) for cell in cells] == [
        (n, how) for n in (1, 8) for how in ("batches", "one at a time")
    ]
    assert all(cell["requests_per_second"] > 0 and 0 < cell["p50_ms"] <= cell["p99_ms"] for cell in cells)
    if sys.platform.startswith("linux"):
        assert all(50 < cell["memory_mb"] < 5000 for cell in cells)
    assert capsys.readouterr().out.count("requests/s") == 4


def test_a_server_that_does_not_start_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err.splitlines()[-1]
