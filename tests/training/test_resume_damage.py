"""States that can be read but not continued from: one line, and nothing of the run is changed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIG, create

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state, save_state
from dynconv.cli.main import main
from dynconv.data import Dataset, shapes
from dynconv.errors import DynconvError
from dynconv.model.describe import rows
from dynconv.model.net import Net
from dynconv.training import memory
from dynconv.training.memory import estimate
from dynconv.training.optim import build_optimizers, load_buffers
from dynconv.training.presets import PRESETS
from dynconv.training.progress import Progress
from dynconv.training.trainer import Trainer

PLAIN = CONFIG.model_copy(update={"tta": False})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes.generate(0, 600, 200)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> tuple[RunDir, dict[str, Any]]:
    """A run whose process died before its summary, and its state."""
    run = create(tmp_path_factory.mktemp("runs") / "run", PLAIN)
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        patch.setattr(run, "write_summary", lambda _: None)
        Trainer(PLAIN, dataset, run, progress).fit()
    return run, load_state(run.state)


def edit(tree: dict[str, Any], *keys: Any, value: object) -> dict[str, Any]:
    """The tree with one value changed."""
    first, *rest = keys
    copy: Any = list(tree) if isinstance(tree, list) else dict(tree)
    copy[first] = edit(copy[first], *rest, value=value) if rest else value
    return copy  # type: ignore[no-any-return]


NAN = torch.full((8,), torch.nan)
MOMENTUM = ("optimizers", 0, "state", 0)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("epochs",), 10**6, "1000000 epochs done of 2"),
        (("net", "backbone.0.norm.bias"), NAN, "backbone.0.norm.bias holds NaN or infinity"),
        (("net", "backbone.0.norm.bias"), torch.zeros(8).int(), "backbone.0.norm.bias holds int32 numbers"),
        (("net", "backbone.0.norm.bias"), torch.zeros(9), r"Error\(s\) in loading state_dict for Net"),
        (("net", "input.std"), torch.zeros(3), "the input statistics were never set"),
        (("optimizers",), [], "zip"),
        (("optimizers", 0, "state"), {99: {}}, "the optimizer's state is of other parameters"),
        (MOMENTUM, [1], "the optimizer's state is of other parameters"),
        (MOMENTUM, {"momentum_buffer": torch.zeros(3)}, "the optimizer's state is of other parameters"),
        (MOMENTUM, {"momentum_buffer": "x"}, "the optimizer's state is of other parameters"),
        (MOMENTUM, {"momentum_buffer": torch.tensor(torch.nan)}, "the optimizer's state holds NaN or infinity"),
        (MOMENTUM, {"exp_avg": torch.tensor(0.0)}, "the optimizer's state is of another optimizer"),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(
    state: tuple[RunDir, dict[str, Any]], dataset: Dataset, keys: tuple[Any, ...], value: object, said: str
) -> None:
    run, whole = state
    save_state(run.state, edit(whole, *keys, value=value))
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}

    with (
        Progress() as progress,
        pytest.raises(DynconvError, match=rf"state\.pt: does not fit this run's configuration \(.*{said}"),
    ):
        Trainer(PLAIN, dataset, run, progress).fit(resume=True)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_weights_that_are_finite_but_overflow_are_not_a_traceback(
    state: tuple[RunDir, dict[str, Any]], dataset: Dataset
) -> None:
    run, whole = state
    largest = torch.full_like(whole["net"]["head.linear.weight"], torch.finfo(torch.float32).max)
    save_state(run.state, edit(whole, "net", "head.linear.weight", value=largest))
    with (
        Progress() as progress,
        pytest.raises(DynconvError, match=r"state\.pt: the network's output is not finite; start the run again"),
    ):
        Trainer(PLAIN, dataset, run, progress).fit(resume=True)


def test_the_options_of_an_optimizer_are_the_configurations(state: tuple[RunDir, dict[str, Any]]) -> None:
    """Whatever a state says of learning rates, so a damaged one cannot change them."""
    _, whole = state
    built = build_optimizers(Net(PLAIN.model, 10), PLAIN.optim)
    groups = [each.state_dict()["param_groups"] for each in built]
    for optimizer, saved in zip(built, whole["optimizers"], strict=True):
        load_buffers(optimizer, saved["state"])

    assert [each.state_dict()["param_groups"] for each in built] == groups
    assert torch.equal(
        built[0].state_dict()["state"][0]["momentum_buffer"], whole["optimizers"][0]["state"][0]["momentum_buffer"]
    )


def test_images_of_one_colour_are_refused_before_there_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.full((40, 32, 32, 3), 100, np.uint8)
    images[..., 0] = np.arange(32)
    labels = np.arange(40) % 4
    np.savez("grey.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for preset in ("quick", "basic"):  # with whitening and without
        assert main(["train", preset, "--data", "grey.npz"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith("grey.npz: training images: every pixel has the same green; give images that differ")
    assert [path.name for path in tmp_path.iterdir()] == ["grey.npz"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.experts", "999999999999"], "model.experts: must be whole numbers, at least 1, at most 4096, not"),
        (["--model.widths", "9999999", "9999999"], "model.widths: must be whole numbers, at least 1, at most 65536"),
        (
            ["--model.widths", "65536", "65536"],
            r"training this network takes at least 1,005\.8 GB of memory, and 1\.1 GB are available; lower model",
        ),
        (
            ["--model.kernel-sizes", "255", "--model.experts", "4096"],
            r"at least .* lower model\.widths, model\.experts",
        ),
        (["--model.pools", "1", "--micro-batch", "1000000000"], r"at least .* lower micro_batch or model\.widths"),
        (["--epochs", "9" * 400], "epochs: must be a whole number, at least 1, at most 1000000, not 9{100}\\.\\.\\."),
    ],
)
def test_a_size_that_nobody_has_is_refused_before_anything_is_allocated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    if "--model.widths" in words and "--model.pools" not in words:
        words = [*words, "--model.pools", "2"]
    if "--micro-batch" in words:
        words = [*words, "--batch-size", "1000000000"]

    assert main(["train", "quick", "--data", "shapes", *words]) == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, line) and line.startswith("dynconv: error: ") and len(line) < 300
    assert not list(tmp_path.iterdir())


def test_the_estimate_is_below_what_the_presets_take() -> None:
    """Else it would refuse what can be trained: `quick` and `standard` were measured to take 2.1 GB."""
    for preset in PRESETS.values():
        config = preset()
        weights, outputs = estimate(config, rows(config.model, 10, 32), 50_000)
        assert 1e6 < weights + outputs < 1.2e9
