"""Whole flows through the command line, on the generated data set and a tiny network."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import WORDS

import dynconv
from dynconv.cli.main import main
from dynconv.cli.verbs import VERBS
from dynconv.data import shapes
from dynconv.training.presets import PRESETS

TINY = ["train", "quick", *WORDS]


def summary(run: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((run / "summary.json").read_text())
    return read


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that wrong input is answered with."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("dynconv: error: ")]
    assert len(lines) == 1 and said.err.rstrip().endswith(lines[0])
    return lines[0].removeprefix("dynconv: error: ")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dynconv", *words]


# --- training


def test_the_last_line_on_standard_output_is_the_run_which_holds_everything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYNCONV_DATA", raising=False)

    assert main([*TINY, "--epochs", "1"]) == 0

    lines = capfd.readouterr().out.splitlines()
    run = Path(lines[-1])
    found = summary(run)
    assert run.parent == Path("runs") and "shapes" in run.name
    assert f"{found['test_accuracy']:.2%}" in lines[0] and f"{found['test_accuracy_tta']:.2%}" in lines[0]
    assert any(line.strip() == f"dynconv evaluate {run}" for line in lines)
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "weights.safetensors",
        "predictions.npz",
    ):
        assert (run / name).stat().st_size > 0, name
    assert (run / "report" / "report.html").exists()
    assert (run / "report" / "loss.png").exists() and (run / "report" / "accuracy.png").exists()
    assert list((run / "tensorboard").iterdir())


def test_evaluate_reproduces_the_accuracy_of_the_run_exactly(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (trained, trained / "weights.safetensors"):
        assert main(["evaluate", str(source), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)

        assert figures["accuracy"] == summary(trained)["test_accuracy"]
        assert figures["accuracy_tta"] == summary(trained)["test_accuracy_tta"]
        assert figures["loss"] == pytest.approx(summary(trained)["test_loss"], abs=1e-6)
        assert figures["data"] == "shapes" and figures["split"] == "test"


@pytest.mark.parametrize(("columns", "heading"), [("80", "true class (row)"), ("60", "most often")])
def test_evaluate_shows_each_class(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str, heading: str
) -> None:
    """Where the confusion matrix does not fit into the terminal, what each class is most often taken for."""
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["evaluate", str(trained)]) == 0

    text = capsys.readouterr().out
    assert f"{summary(trained)['test_accuracy']:.2%}" in text and heading in text
    assert text.count("%") >= 10 and all(name in text for name in shapes.CLASSES)


def test_runs_lists_the_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(trained.parent)]) == 0

    text = capsys.readouterr().out
    assert "first" in text and "shapes" in text


def test_the_same_seed_gives_the_same_network(trained: Path, tmp_path: Path) -> None:
    config = trained / "config.yaml"

    assert (
        main(["train", "--config", str(config), "--data", "shapes", "--run", str(tmp_path / "again"), "--no-report"])
        == 0
    )

    assert (tmp_path / "again/predictions.npz").read_bytes() == (trained / "predictions.npz").read_bytes()
    assert summary(tmp_path / "again")["test_loss"] == summary(trained)["test_loss"]


@pytest.mark.large
def test_interrupted_then_resumed_ends_as_if_never_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = [*TINY, "--epochs", "4"]
    process = subprocess.Popen(
        command(*words, "--run", str(run)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and '"kind": "epoch"' in metrics.read_text().replace('":"', '": "')):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == str(run) and f"dynconv train --resume {run}" in out
    assert summary(run)["stopped_by"] == "interrupt" and summary(run)["finished"] is False
    assert all((run / "report" / f"{name}.png").stat().st_size > 1000 for name in ("loss", "accuracy"))
    assert not (run / "report" / "report.html").exists()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == summary(run)["test_accuracy"]

    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert main([*words, "--run", str(whole)]) == 0

    assert summary(run)["finished"] is True and summary(run)["epochs"] == 4
    for figure in ("test_accuracy", "test_accuracy_tta", "test_loss", "train_accuracy"):
        assert summary(run)[figure] == summary(whole)[figure], figure
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == list(
        range(1, 1 + max(record["step"] for record in steps))
    )


def test_a_run_that_breaks_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynconv.training import trainer

    plain = trainer.set_learning_rates

    def breaking(optimizers: list[object], factor: float) -> dict[str, float]:
        rates = plain(optimizers, factor)  # type: ignore[arg-type]
        if factor < 0.2:
            plain(optimizers, float("inf"))  # type: ignore[arg-type]
        return rates

    monkeypatch.setattr(trainer, "set_learning_rates", breaking)

    assert main([*TINY, "--no-tta", "--run", str(tmp_path / "run")]) == 1

    assert summary(tmp_path / "run")["stopped_by"] == "non-finite loss" and summary(tmp_path / "run")["epochs"] == 1
    assert all((tmp_path / "run/report" / name).exists() for name in ("report.html", "loss.png", "accuracy.png"))


def test_held_out_images_are_reported_and_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main([*TINY, "--epochs", "1", "--holdout", "500", "--run", str(run), "--no-tta", "--no-report"]) == 0
    out = capsys.readouterr().out
    assert f"dynconv report {run}" in out and not (run / "report").exists()

    assert main(["evaluate", str(run), "--split", "validation", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 500 and figures["accuracy"] == summary(run)["validation_accuracy"]
    assert figures["accuracy_tta"] is None
    assert main(["report", str(run), "--format", "md", "--data", "shapes"]) == 0
    assert "500 are held out of training" in (run / "report" / "report.md").read_text(encoding="utf-8")


# --- wrong input


def test_a_run_that_exists_is_not_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "summary.json").read_bytes()

    assert str(trained) in error(capsys, *TINY, "--run", str(trained))

    assert (trained / "summary.json").read_bytes() == before


def test_a_finished_run_is_not_resumed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "finished" in error(capsys, "train", "--resume", str(trained))


@pytest.mark.parametrize("words", [["--seed", "5"], ["quick"]])
def test_resume_takes_no_other_settings(trained: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert error(capsys, "train", *words, "--resume", str(trained)).startswith("--resume takes its hyper-parameters")


def test_resume_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in error(capsys, "train", "--resume", str(tmp_path))


def test_a_wrong_value_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert error(capsys, *TINY, "--model.experts", "0").startswith("model.experts: must be")
    assert "block 1 changes the shape" in error(capsys, *TINY, "--model.residual", "true", "false")
    assert error(capsys, *TINY, "--seed", "1000000000000000").startswith("seed: must be")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert error(capsys, *TINY, "--device", "cuda").startswith("device: cuda is not available here")
    assert not list(tmp_path.iterdir())


def test_no_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "none") in error(capsys, *TINY, "--data", str(tmp_path / "none"))


def test_evaluate_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "none") in error(capsys, "evaluate", str(tmp_path / "none"))


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "trian") == "no command 'trian'; did you mean train?"


# --- help and the others


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out

    assert all(f"  {verb} " in text for verb in VERBS)
    assert main([]) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])

    assert stop.value.code == 0
    assert f"usage: dynconv {verb}" in capsys.readouterr().out


def test_describe_takes_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "basic", "--model.experts", "7"]) == 0

    assert "7 x conv" in capsys.readouterr().out


def test_presets_are_listed_with_what_they_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0

    text = capsys.readouterr().out
    assert all(name in text for name in PRESETS) and text.count("\n") > len(PRESETS)


def test_doctor_says_where_the_data_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}-images.npy", np.zeros((4, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}-labels.npy", np.arange(4))
    monkeypatch.setenv("DYNCONV_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")

    assert main(["doctor"]) == 0

    (line,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["look", "data"])
    assert line[2:] == f"{tmp_path.name}: {tmp_path}, 4 + 4 images".split()


def test_help_and_version_load_nothing_heavy() -> None:
    code = "import sys; from dynconv.cli.main import main; main(['--help']); main(['--version']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"torch", "tyro", "matplotlib", "numpy", "pydantic"} & set(loaded)


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no pseudo-terminals; not tested: the first line on one"
)
@pytest.mark.parametrize(("words", "said"), [(["predict", "nowhere.png"], True), (["predict", "--help"], False)])
def test_on_a_terminal_something_is_said_before_pytorch_is_loaded(words: list[str], said: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dynconv", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 4096):
                output += part
    os.close(ours)

    assert process.returncode == int(said)
    assert output.startswith(f"dynconv {dynconv.__version__}: loading PyTorch\r\n".encode()) == said


def test_one_description_of_a_verb_serves_the_list_its_own_help_and_the_readme(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for verb, (_, text) in VERBS.items():
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert text in " ".join(capsys.readouterr().out.replace("│", " ").split()), verb
        assert f"| `{verb}` | {text} |" in readme, verb


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m dynconv --help | true"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

    assert process.stderr == ""


def test_public_names_load_at_first_use() -> None:
    import dynconv
    from dynconv.inference.predictor import Predictor

    assert dynconv.Predictor is Predictor
    assert set(dynconv.__all__) == set(dir(dynconv))
    assert all(getattr(dynconv, name) for name in dynconv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dynconv.nonsense  # noqa: B018


def test_a_run_takes_as_many_epochs_as_fit_into_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dynconv.training import timing

    monkeypatch.setattr(timing, "_side_by_side", lambda *_: [1.0])
    monkeypatch.setattr(timing._Timed, "evaluation_seconds", lambda _: 1.0)
    words = TINY[:-2]  # without its epochs
    assert main([*words, "--no-tta", "--no-report", "--time", "1.2m", "--run", str(tmp_path / "run")]) == 0

    assert summary(tmp_path / "run")["epochs"] == 3, "of 20 steps each"
    assert "time: 3 epochs, about 64 s of 72" in capsys.readouterr().err
    for given, said in (
        ("soon", "must be a time such as 90s"),
        ("0m", "must be a time"),
        ("9s", "more than the 9 s"),
    ):
        assert main([*words, "--time", given, "--run", str(tmp_path / "other")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert main([*words, "--time", "9h", "--epochs", "3"]) == 2
    assert "--time goes with none of --epochs" in capsys.readouterr().err


def test_a_grey_network_from_training_to_the_hand_in(tmp_path: Path) -> None:
    run = str(tmp_path / "run")

    assert main(["train", "quick", *WORDS, "--model.grey", "--run", run]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["report", run, "--format", "md", "--output", str(tmp_path / "handin")]) == 0

    (text,) = (tmp_path / "handin").glob("*.md")
    assert "The images become grey." in text.read_text(encoding="utf-8")
    page = tmp_path / "run/report/report.html"
    assert "mapped to brightness" in page.read_text(encoding="utf-8")


PREDICTS = """
import sys
import dynconv
from dynconv.cli.main import main
assert main(["predict", sys.argv[1]]) == 0
print(sorted({"torch._dynamo", "sympy", "matplotlib", "scipy"} & set(sys.modules)))
"""


def test_a_prediction_loads_nothing_that_takes_a_second_and_is_not_needed(tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    Image.new("RGB", (40, 30), "grey").save(picture)

    as_a_user = {name: value for name, value in os.environ.items() if name != "DYNCONV_NO_MEASURING"}
    done = subprocess.run(
        [sys.executable, "-c", PREDICTS, picture], env=as_a_user, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
