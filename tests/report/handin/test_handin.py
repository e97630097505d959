"""The report to hand in about real runs on generated images, in each format, and with what is missing."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dynconv
from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.data.augment import AugmentConfig
from dynconv.layer.routing import GATES
from dynconv.model.config import ModelConfig
from dynconv.report import plot
from dynconv.report.handin import method, pdf
from dynconv.report.handin.document import Code, Equation, Paragraph

CHAPTERS = (
    "Task and data", "Model", "Training", "Curves", "Results", "Routing", "Hyper-parameters",
    "Environment and reproduction",
)  # fmt: skip
FIGURES = {"architecture", "loss", "accuracy", "confusion", "ablation", "routing-classes", "routing-epochs"}


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "state.pt")))


@pytest.fixture(scope="module")
def seeds(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The run, and what looks like another seed of it with an accuracy one point lower."""
    other = Path(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "second"))
    config = (other / "config.yaml").read_text(encoding="utf-8")
    (other / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"), encoding="utf-8")
    summary = json.loads((other / "summary.json").read_text(encoding="utf-8"))
    summary |= {"seed": 1, "test_accuracy": summary["test_accuracy"] - 0.01}
    (other / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (other / "weights.safetensors").unlink()
    return [trained, other]


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are not rendered, which takes long."""

    def blank(name: str, caption: str, paint: Callable[..., None], width: float = 6, height: float = 4) -> plot.Plot:
        return plot.Plot(name, caption, "<svg ></svg>", b"png", paint, (width, height))

    for name, module in list(sys.modules.items()):
        if name.startswith("dynconv.report.") and hasattr(module, "draw") and module is not plot:
            monkeypatch.setattr(module, "draw", blank)


def written(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The Markdown report, and what was said."""
    assert main(["report", *words, "--format", "md", "--output", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(folder / "report.md")
    return (folder / "report.md").read_text(encoding="utf-8").replace("\\", ""), said.err


def test_it_holds_what_a_course_asks_for(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, said = written([str(trained)], tmp_path, capsys)

    summary = json.loads((trained / "summary.json").read_text(encoding="utf-8"))
    assert said == "" and re.findall(r"^## \d\. (.*)$", report, re.MULTILINE) == list(CHAPTERS)
    accuracies = f"{summary['test_accuracy']:.2%}", f"{summary['test_accuracy_tta']:.2%}"
    shown = [each.replace("%", " %") for each in accuracies]
    assert (
        f"the test accuracy is {shown[0]} (n = 1), and {shown[1]} (n = 1) with test-time augmentation; 95 %" in report
    )
    assert "No epoch was chosen by its test accuracy." in report
    assert "sum_{k=1}^{K} a_k" in report
    for name, value in {
        "model.widths": "8, 8",
        "optim.lr": "0.17",
        "augment.flip": "alternating",
        "init": "none",
    }.items():
        assert f"| `{name}` | {value} |" in report
    assert "Momentum of biases and head, with muon. |" in report and "Muon" in report
    assert re.search(r"(Routing matters|Routing makes no measurable difference|Routing does harm): giving", report)
    assert json.loads((trained / "environment.json").read_text(encoding="utf-8"))["command"] in report
    assert f"dynconv train --config {trained}/config.yaml --data shapes" in report
    assert all(name in report for name in shapes.CLASSES)
    assert set(re.findall(r"\]\(figures/(.*)\.png\)", report)) == FIGURES
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == FIGURES
    parameters = f"{summary['parameters']:,}"
    assert f"| all |  |  |  | {parameters} |" in report


def test_it_says_whose_it_is_and_what_is_not_as_in_the_preset(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = written([str(trained), "--author", "Ada L., Course 101"], tmp_path, capsys)

    title, subtitle, byline = report.split("\n\n")[:3]
    assert title.startswith("# ") and subtitle == "Preset quick on shapes, changed, seed 0"
    assert re.fullmatch(r"Ada L\., Course 101, \d{4}-\d\d-\d\d", byline)
    (row,) = (line for line in report.splitlines() if line.startswith("| not as in the preset"))
    assert "model.widths 8, 8" in row and "optim.lr" not in row
    from_python = dynconv.Run(trained).report("md", author="Ada L., Course 101").read_text(encoding="utf-8")
    assert from_python.replace("\\", "").split("\n\n")[:3] == [title, subtitle, byline]
    assert "| device | cpu |" in report


def test_the_other_formats_hold_the_same(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pypdf = pytest.importorskip("pypdf")
    accuracy = f"{100 * json.loads((trained / 'summary.json').read_text())['test_accuracy']:.2f}"
    for name in ("pdf", "tex"):
        assert main(["report", str(trained), "--format", name, "--output", str(tmp_path)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / f"report.{name}")

    reader = pypdf.PdfReader(tmp_path / "report.pdf")
    pages = [" ".join(page.extract_text().split()) for page in reader.pages]
    assert f"{accuracy} % (n = 1)" in pages[0] and all(title in pages[0] for title in CHAPTERS)
    assert [re.sub(r"^\d  ", "", entry.title) for entry in reader.outline] == list(CHAPTERS)
    for entry in reader.outline:  # it leads to where the chapter is
        assert entry.title.replace("  ", " ") in pages[reader.get_destination_page_number(entry)]
    assert "max pool 4, batch norm," in pages[2] and "optim.sgd_momentum" in "".join(pages)
    source = (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert rf"{accuracy} \% (n = 1)" in source
    assert re.findall(r"\\section{(.*)}", source) == list(CHAPTERS)
    assert {path.stem for path in (tmp_path / "figures").glob("*.pdf")} == FIGURES


def test_a_notebook_computes_its_numbers_from_the_run(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run where it lies, whatever the run's folder is called by then."""
    nbformat = pytest.importorskip("nbformat")
    assert main(["report", str(copy), "--format", "ipynb"]) == 0
    copy = copy.rename(copy.with_name("moved & renamed"))
    report = nbformat.read(copy / "report" / "report.ipynb", as_version=4)
    nbformat.validate(report)
    capsys.readouterr()

    monkeypatch.chdir(copy / "report")
    names: dict[str, Any] = {}
    numbers = 0
    for cell in report.cells:
        if cell.cell_type != "code":
            continue
        if cell.source.startswith("figures["):
            (output,) = cell.outputs
            assert eval(cell.source, names)._repr_png_() is not None and output.data["image/png"]
            continue
        exec(cell.source, names)
        assert capsys.readouterr().out == "".join(output.text for output in cell.outputs)
        numbers += len(cell.outputs)

    assert numbers == 3 and names["figures"].keys() == FIGURES


@pytest.mark.usefixtures("without_drawing")
def test_several_seeds_are_a_mean_a_deviation_and_n(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = written([str(run) for run in seeds], tmp_path, capsys)

    first, second = (json.loads((run / "summary.json").read_text())["test_accuracy"] for run in seeds)
    mean = f"{50 * (first + second):.2f} ± 0.71 %"
    assert f"the test accuracy is {mean} (n = 2), and" in report and "seeds 0, 1" in report
    assert f"| mean ± sd (n = 2) | {mean} |" in report and "| `seed` | 0, 1 |" in report
    assert "Mean of 2 runs, and a band of one standard deviation." in report and "summed over 2 runs" in report
    assert report.count("dynconv train --config") == 2 and "- Seed 0: Routing" in report
    assert f"{seeds[1]}: the run has no weights" in report


@pytest.mark.usefixtures("without_drawing")
def test_what_is_missing_is_named_and_the_rest_is_shown(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("weights.safetensors", "predictions.npz", "environment.json"):
        (copy / name).unlink()

    report, said = written([str(copy)], copy / "out", capsys)

    for name in ("no weights", "predictions.npz", "environment.json"):
        assert name in said and name in report
    assert "(n = 1)" in report and "| `optim.lr` | 0.17 |" in report
    shown = set(re.findall(r"\]\(figures/(.*)\.png\)", report))
    assert shown == {"architecture", "loss", "accuracy", "routing-epochs"} and "Traceback" not in said


@pytest.mark.usefixtures("without_drawing")
def test_a_run_that_has_not_ended_has_no_results(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("summary.json", "metrics.jsonl", "weights.safetensors", "predictions.npz"):
        (copy / name).unlink()

    report, _ = written([str(copy)], copy / "out", capsys)

    assert "No epoch has ended." in report and "so there are no results" in report and "(n = 1)" not in report


def test_wrong_input_is_one_line(
    seeds: list[Path], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(config.replace("lr: 0.17", "lr: 0.2"), encoding="utf-8")
    one = str(seeds[0])
    for words, said in {
        (one, "--format", "docx"): "format: must be one of html, pdf, md, tex, ipynb, not docx",
        (one, str(copy), "--format", "md"): "these runs differ in optim.lr; name runs that differ only in their seed",
        (one, one, "--format", "md"): "named twice",
        (one, "--author", "Ada"): "author: goes with --format pdf, md, tex or ipynb",
        (str(tmp_path / "none"), "--format", "tex"): "not a run directory",
        (one, "--format", "md", "--output", str(copy / "config.yaml")): "cannot be written",
    }.items():
        assert main(["report", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err.splitlines()[-1] and captured.out == ""
    for name, package in {"pdf": "fpdf", "ipynb": "nbformat"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["report", one, "--format", name, "--output", str(tmp_path / "new")]) == 2
        assert f"needs {package}, which is not installed: pip install 'dynconv[handin]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", GATES)
def test_each_gate_is_an_equation_that_can_be_set_or_words(name: str) -> None:
    sentence, *equations = method._gate(ModelConfig(gate=(name,)))
    assert isinstance(sentence, Paragraph)
    place = sentence.spans.index(Code(name))

    if equations:
        (equation,) = equations
        assert isinstance(equation, Equation) and pdf._equation(equation.tex)[1] > 0
        assert sentence.spans[place + 1 :] == (", of the logits z:",)
    else:
        assert any(isinstance(span, Code) and len(span.text) > 5 for span in sentence.spans[place + 1 :])


def test_the_equations_of_gates_are_of_gates() -> None:
    assert method._GATES and set(method._GATES) <= set(GATES)


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        (
            {"name": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "cosine"},
            ["Nesterov momentum 0.9", r"\cos", "peak 0.1 "],
        ),
        ({"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "warmup": 0.1}, ["AdamW with decays 0.9, 0.99"]),
        ({"name": "rmsprop", "lr": 1e-3}, ["rmsprop"]),
    ],
)
def test_each_optimizer_is_described(trained: Path, optim: dict[str, Any], expected: list[str]) -> None:
    from dynconv.report.record import read_record
    from dynconv.report.subject import Subject

    record = read_record(trained)
    config = record.config.model_copy(update={"optim": optim})
    chapter = method.training(Subject(record.__class__(record.path, config)))

    assert all(each in str(chapter.blocks) or each in repr(chapter.blocks).replace("\\\\", "\\") for each in expected)


CHANGED = {
    "flip": "random", "translate": 3, "cutout": 7, "mixup": 0.3, "cutmix": 1.5, "crop_scale": (0.4, 0.9),
    "crop_ratio": (0.6, 1.7), "brightness": 0.35, "contrast": 0.45, "saturation": 0.55, "hue": 0.15,
    "policy": "trivialaugment", "randaugment_operations": 5, "randaugment_magnitude": 11, "erase": 0.65,
    "erase_scale": (0.03, 0.3), "erase_ratio": (0.4, 2.9),
}  # fmt: skip
NEEDS = {
    "crop_ratio": {"crop_scale": (0.3, 1)}, "randaugment_operations": {"policy": "randaugment"},
    "randaugment_magnitude": {"policy": "randaugment"}, "erase_scale": {"erase": 0.5}, "erase_ratio": {"erase": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("field", AugmentConfig.model_fields)
def test_each_augmentation_is_described(field: str) -> None:
    usual = {"flip": "none", "translate": 0} | NEEDS.get(field, {})
    before, after = (
        method._augmentation(AugmentConfig.model_validate(fields).model_dump(mode="json"))
        for fields in (usual, usual | {field: CHANGED[field]})
    )

    assert before != after and (before == "The training images are not augmented.") == (field not in NEEDS)


def chapter_of(trained: Path, **fields: Any) -> str:
    from dynconv.report.record import read_record
    from dynconv.report.subject import Subject

    record = read_record(trained)
    config = record.config.model_copy(update=fields)
    return str(method.training(Subject(record.__class__(record.path, config))).blocks)


def test_the_loss_that_is_printed_is_the_one_that_was_minimised(trained: Path) -> None:
    plain, weighted = chapter_of(trained), chapter_of(trained, class_weights="balanced")
    assert "w_{y_i}" not in plain and "equally frequent" not in plain
    assert "w_{y_i}" in weighted and "The weight w of a class" in weighted
    assert "equally frequent" in chapter_of(trained, sampling="balanced")


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"selected_by": "hold-out accuracy", "selected_epoch": 1},
            "With the weights of epoch 1, which was best on the",
        ),
        ({"finished": False, "stopped_by": "interrupt", "epochs": 1}, "Where training ended, after 1 of 2 epochs"),
        ({"stopped_by": "target", "epochs": 1}, "Where training ended, after 1 of 2 epochs"),
    ],
)
def test_the_figures_are_said_to_be_those_of_their_weights(
    copy: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    (copy / "summary.json").write_text(json.dumps(summary | fields), encoding="utf-8")

    report, _ = written([str(copy)], copy / "out", capsys)

    assert f"{said}" in report and "fter the last epoch" not in report


def test_it_is_written_from_python_too(copy: Path) -> None:
    run = dynconv.Run(copy)

    assert run.report("md") == copy / "report" / "report.md"
    assert run.report("md").read_text(encoding="utf-8").startswith("# Image classification")
