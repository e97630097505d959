"""What TensorBoard, Weights & Biases and MLflow are told of a run; the latter two where they are installed."""

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from summaries import SUMMARY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CONFIG, WORDS, create

from dynconv.artifacts.records import EpochLine, Line, StepLine, Summary, WarningLine
from dynconv.artifacts.rundir import RunDir
from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.errors import DynconvError
from dynconv.model.routing_statistics import BlockRouting
from dynconv.training import logs
from dynconv.training.logs import About, Logs
from dynconv.training.progress import Progress
from dynconv.training.trainer import Trainer

ROUTING = [BlockRouting(block=1, mean=[0.25, 0.75], entropy=0.8, std=0.1)]


def step(number: int, loss: float = 2.0) -> StepLine:
    return StepLine(
        step=number, epoch=number / 10, loss=loss, lr={"experts": 0.1}, image_size=16, images_per_second=5.0,
        seconds=1.0,
    )  # fmt: skip


def epoch(number: int, accuracy: float) -> EpochLine:
    return EpochLine(
        epoch=number, step=10 * number, train_loss=1.0, train_accuracy=0.5, test_loss=1.5, test_accuracy=accuracy,
        lr={"experts": 0.1}, image_size=16, seconds=1.0, routing=ROUTING,
    )  # fmt: skip


LINES: list[Line] = [step(10), epoch(1, 0.25), WarningLine(step=10, text="mind this"), step(20, 1.0), epoch(2, 0.75)]


def write(run: RunDir, names: Sequence[Any], lines: list[Line] = LINES, summary: Summary | None = SUMMARY) -> None:
    opened = Logs(run, names)
    for line in lines:
        opened.record(line)
    opened.close(summary)


def test_the_numbers_of_a_line_by_name() -> None:
    assert logs.scalars(step(3)) == {
        "step/epoch": 0.3, "step/loss": 2, "step/image_size": 16, "step/images_per_second": 5, "step/seconds": 1,
        "lr/experts": 0.1,
    }  # fmt: skip
    found = logs.scalars(epoch(1, 0.25))
    assert found["epoch/test_accuracy"] == 0.25 and found["routing/block1/entropy"] == 0.8
    assert "epoch/validation_loss" not in found and "lr/experts" not in found
    assert logs.scalars(WarningLine(step=1, text="mind this")) == {}


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    write(run, ())

    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(each.step, each.value) for each in events.Scalars("epoch/test_accuracy")] == [(10, 0.25), (20, 0.75)]
    assert [each.value for each in events.Scalars("step/loss")] == [2.0, 1.0]
    assert "routing/block1/std" in events.Tags()["scalars"] and "warning/text_summary" in events.Tags()["tensors"]


class Failing:
    """A log whose server has gone at some point."""

    fails = "record"

    def __init__(self, about: About) -> None:
        self._maybe("open")

    def record(self, line: Line) -> None:
        self._maybe("record")

    def close(self, summary: Summary | None) -> None:
        self._maybe("close")

    def _maybe(self, what: str) -> None:
        if what == self.fails:
            raise ConnectionError("no route to host\nand more of it")


@pytest.mark.parametrize("fails", ["open", "record", "close"])
def test_a_log_that_fails_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(Failing, "fails", fails)
    monkeypatch.setitem(logs.LOGS, "wandb", Failing)
    run, dataset = create(tmp_path / "run"), shapes.generate(0, 600, 200)

    with Progress() as progress:
        summary = Trainer(CONFIG, dataset, run, progress, device="cpu", log=("wandb",)).fit()

    assert summary.finished and len(run.metrics().steps) == 12
    assert [text for text in caplog.messages if "wandb" in text] == [
        "wandb: no route to host; training goes on without this log"
    ]
    assert EventAccumulator(str(run.tensorboard)).Reload().Scalars("epoch/test_accuracy"), "the others go on"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_log_that_is_not_installed_is_one_line_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)

    assert main(["train", "quick", *WORDS, "--log", name, "--run", str(tmp_path / "run")]) == 2
    assert f"log: {name} is not installed; pip install 'dynconv[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def opened_as(name: str, monkeypatch: pytest.MonkeyPatch) -> list[About]:
    """What a stand-in for this log will be told when it is opened, once for each time."""
    opened: list[About] = []

    class Noting(Failing):
        fails = ""

        def __init__(self, about: About) -> None:
            opened.append(about)

    monkeypatch.setitem(logs.LOGS, name, Noting)
    return opened


def test_a_resumed_run_goes_on_with_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being told again; told so, with others; and under the identity that it had."""
    opened = opened_as("mlflow", monkeypatch)
    monkeypatch.setattr(logs, "require_logs", lambda _: None)
    monkeypatch.setattr("dynconv.training.launch.require_logs", lambda _: None)
    run = tmp_path / "run"
    assert main(["train", "quick", *WORDS, "--epochs", "1", "--no-report", "--log", "mlflow", "--run", str(run)]) == 0
    (run / "summary.json").unlink()
    assert main(["train", "--no-report", "--resume", str(run)]) == 0
    (run / "summary.json").unlink()
    assert main(["train", "--no-report", "--resume", str(run), "--log"]) == 0

    assert len(opened) == 2 and opened[0] == opened[1] and opened[0].name == "run"
    assert opened[0].config["optim.lr"] == 0.17 and str(tmp_path) not in json.dumps(opened[0].config)


def test_the_path_of_the_weights_that_a_run_started_from_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = opened_as("wandb", monkeypatch)
    config = CONFIG.model_copy(update={"init": str(tmp_path / "secret" / "start.safetensors")})

    logs.Logs(create(tmp_path / "run", config), ["wandb"])

    assert opened[0].config["init"] == "start.safetensors"


def test_two_runs_are_two_to_a_log(tmp_path: Path) -> None:
    configs = {name: CONFIG.model_copy(update={"seed": seed}) for name, seed in (("a", 0), ("b", 0), ("c", 1))}
    found = {logs._identity(create(tmp_path / name, config)) for name, config in configs.items()}

    assert len(found) == 3 and all(len(each) == 16 for each in found)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install 'dynconv[wandb]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_CACHE_DIR", "cache"), ("WANDB_CONFIG_DIR", "config")):
        monkeypatch.setenv(name, value if name == "WANDB_MODE" else str(tmp_path / value))
    wandb.teardown()
    yield wandb
    wandb.teardown()


@pytest.mark.filterwarnings("default")  # of wandb's own dependencies
def test_wandb_writes_config_metrics_and_summary(tmp_path: Path, offline: Any) -> None:
    run = create(tmp_path / "run")
    logs.require_logs(["wandb"])
    write(run, ("wandb",))
    offline.teardown()  # ends the process that writes the file

    found = read_wandb(run)
    assert found["config"]["optim.lr"] == "0.17" and found["config"]["data"] == '"shapes"'
    history = found["history"]
    assert [each["epoch/test_accuracy"] for each in history if "epoch/test_accuracy" in each] == ["0.25", "0.75"]
    assert [each["step"] for each in history] == ["10", "10", "10", "20", "20"]
    assert history[2]["warning"] == '"mind this"'
    assert found["summary"]["test_accuracy"] == "0.9" and found["summary"]["stopped_by"] == "null"


def read_wandb(run: RunDir) -> dict[str, Any]:
    """What the file of an offline run holds: values as JSON."""
    from wandb.proto import wandb_internal_pb2

    def values(items: Any) -> dict[str, str]:
        return {item.key or "/".join(item.nested_key): item.value_json for item in items}

    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    config, summary, history = {}, {}, []
    for data in records_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        config |= values(record.run.config.update)
        summary |= values(record.summary.update)
        if record.WhichOneof("record_type") == "history":
            history.append(values(record.history.item))
    return {"config": config, "summary": summary, "history": history}


def records_of(content: bytes) -> list[bytes]:
    """Those of a LevelDB log after a header of 7 bytes: in blocks of 32 KiB, each part with crc, length and kind."""
    found, place = [b""], 7
    while place < len(content):
        if (left := -place % 32768) < 7:  # too few bytes for a part: the next block
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        found[-1] += content[place + 7 : place + 7 + length]
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(b"")
        place += 7 + length
    return found[:-1]


@pytest.mark.filterwarnings("default")
def test_without_an_account_wandb_is_one_line(offline: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    offline.teardown()

    with pytest.raises(DynconvError, match=r"wandb knows no account on this machine; run `wandb login`, or set WANDB"):
        logs.require_logs(["wandb"])


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An MLflow client with a store of its own: SQLite, since MLflow refuses plain folders."""
    pytest.importorskip("mlflow", reason="needs mlflow-skinny: pip install 'dynconv[mlflow]'")
    from mlflow.tracking import MlflowClient

    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.filterwarnings("default")  # MLflow uses what SQLAlchemy 2.1 deprecates
def test_mlflow_stores_config_metrics_and_summary_and_a_resumed_run_goes_on(tmp_path: Path, tracking: Any) -> None:
    run = create(tmp_path / "run")
    logs.require_logs(["mlflow"])
    write(run, ("mlflow",), [step(9), *LINES[:3]], None)
    (experiment,) = (each for each in tracking.search_experiments() if each.name == "dynconv")
    (killed,) = tracking.search_runs([experiment.experiment_id])
    write(run, ("mlflow",), LINES[3:])

    (found,) = tracking.search_runs([experiment.experiment_id])
    assert killed.info.status == "KILLED" and found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["optim.lr"] == "0.17" and found.data.params["model.widths"] == "8, 8"
    assert found.data.tags["data"] == "shapes" and found.data.tags["warning"] == "mind this"
    assert found.data.tags["summary.precision"] == "fp32" and found.data.metrics["summary/test_accuracy"] == 0.9

    def history(name: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in tracking.get_metric_history(found.info.run_id, name)]

    assert history("epoch/test_accuracy") == [(10, 0.25), (20, 0.75)]
    assert history("step/loss") == [(10, 2.0), (20, 1.0)], "of the steps, every tenth"
    assert history("lr/experts") == [(10, 0.1), (20, 0.1)] and history("routing/block1/std") == [(10, 0.1), (20, 0.1)]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("store", ["folder", "unreachable"])
def test_a_store_that_mlflow_cannot_use_ends_nothing(
    tmp_path: Path, tracking: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, store: str
) -> None:
    places = {"folder": str(tmp_path / "mlruns"), "unreachable": "http://127.0.0.1:9"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places[store])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write(create(tmp_path / "run"), ("mlflow",))

    (said,) = (text for text in caplog.messages if text.startswith("mlflow: "))
    assert said.endswith("; training goes on without this log") and "\n" not in said
