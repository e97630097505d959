"""The report of a real run on generated images: the page, its plots, in a browser, and with files missing."""

import functools
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dynconv.artifacts.rundir import Predictions
from dynconv.cli.main import main
from dynconv.config import RunConfig
from dynconv.data import shapes
from dynconv.inference.explain import Ablation
from dynconv.report import curves, one, plots, results, style
from dynconv.report.corruptions import CORRUPTIONS
from dynconv.report.record import Record, read_record

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PLOTS = {
    "loss", "accuracy", "time", "schedule", "architecture", "confusion", "reliability", "corruptions", "ablation",
    "routing-classes", "routing-epochs", "kernels",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "generate", functools.cache(shapes.generate))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, with the report that ends its training."""
    run = tmp_path_factory.mktemp("runs") / "first"
    words = "train quick --data shapes --model.widths 8 8 --model.pools 4 2 --image-sizes 16 --epochs 2 --run"
    assert main([*words.split(), str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report" / "report.html").read_text()


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "state.pt")))


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_training_ends_with_a_page_that_says_what_the_run_did(run: Path, page: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    found = text(page)

    assert f"{summary['test_accuracy']:.2%} (95 % interval " in found
    assert "generated: this accuracy says nothing about CIFAR-10" in found
    assert json.loads((run / "environment.json").read_text())["command"] in html.unescape(found)
    assert f"dynconv train --config {run}/config.yaml" in found
    for name, value in {"model.widths": "8, 8", "optim.lr": "0.17", "augment.flip": "alternating"}.items():
        assert f"{name} {value}" in found
    assert re.search(r"(The mixture matters|No use of the routing can be shown|The routing does harm): with", found)
    assert "biases and classifier, muon: momentum 0.85" in found and "whitening: epsilon 0.0005" in found
    for name in shapes.CLASSES:
        assert name in found


def test_every_plot_is_in_the_page_and_beside_it_as_png_and_svg(run: Path, page: str) -> None:
    folder = run / "report"

    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.svg")} == PLOTS
    assert set(re.findall(r'<figure id="([^"]+)"', page)) == PLOTS
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 100 and len(set(image.convert("L").get_flattened_data())) > 10
    assert len(page) < 6_000_000


def test_the_page_is_complete_in_itself(page: str) -> None:
    assert "<script" not in page and "<link" not in page
    sources = re.findall(r'(?:src|xlink:href|[^:]href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources and all(source.startswith(("#", "data:image/")) for source in sources)
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")
def test_a_browser_shows_it_light_dark_and_narrow_without_complaint(run: Path) -> None:
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        colours = {}
        for scheme, width in (("light", 1200), ("dark", 1200), ("light", 360)):
            tab = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()  # type: ignore[arg-type]
            tab.on("console", lambda message: said.append(message.text))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.on("request", lambda request: request.url[:5] in ("file:", "data:") or said.append(request.url))
            tab.goto((run / "report" / "report.html").as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            broken = "[...document.images].filter(image => !image.naturalWidth).length"
            assert tab.evaluate(broken) == 0 and tab.evaluate("document.images.length") > 30
            paper, ink = (
                tab.evaluate(f"getComputedStyle(document.{what}).{which}")
                for what, which in (("body", "backgroundColor"), ("querySelector('#loss svg text')", "fill"))
            )
            colours[scheme] = paper, ink
            if scheme == "dark":
                tab.emulate_media(media="print")
                background = "getComputedStyle(document.body).backgroundColor"
                assert tab.evaluate(background) == "rgb(255, 255, 255)"  # no dark paper
                assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
                pdf = tab.pdf(prefer_css_page_size=True)
                assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3
                sheets = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([^]]*)\]", pdf)}
                assert [tuple(map(round, sheet)) for sheet in sheets] == [(0, 0, 595, 842)]  # A4, in points
        browser.close()
    assert said == []
    brightness = {name: [sum(map(int, re.findall(r"\d+", one))) for one in pair] for name, pair in colours.items()}
    assert brightness["light"][0] > 600 > 200 > brightness["light"][1]  # dark text on white
    assert brightness["dark"][0] < 200 < 500 < brightness["dark"][1]  # and the other way round


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "environment.json").write_text("{")
    (copy / "predictions.npz").write_bytes((copy / "predictions.npz").read_bytes()[:1000])
    (copy / "weights.safetensors").unlink()
    (copy / "summary.json").write_text('{"test_accuracy": ')

    assert main(["report", str(copy)]) == 0

    said = capsys.readouterr()
    page = text((copy / "report" / "report.html").read_text())
    for name in ("environment.json", "predictions.npz", "summary.json", "no weights"):
        assert name in said.err and name in page
    shown = {path.stem for path in (copy / "report").glob("*.png")}
    assert shown == {"loss", "accuracy", "time", "schedule", "architecture", "routing-epochs"}
    assert "Traceback" not in said.err


def rewrite_json(name: str, **changes: object) -> Callable[[Path], object]:
    """Has fields of a JSON file changed; those that become `...` are left out."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text()) | changes
        (run / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def rewrite_epochs(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def rewrite(run: Path) -> None:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for record in records:
            if record["kind"] == "epoch" and record["epoch"] == 2:
                change(record)
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    return rewrite


def rewrite_predictions(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    def rewrite(run: Path) -> None:
        with np.load(run / "predictions.npz") as arrays:
            found = dict(arrays)
        np.savez(run / "predictions.npz", **(found | {name: change(found[name])}))

    return rewrite


def one_nan(probabilities: Any) -> Any:
    changed = probabilities.copy()
    changed[3, 1] = np.nan
    return changed


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("damage", "said", "lost"),
    [
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe"), "metrics.jsonl: damaged", "curves"),
        (lambda run: (run / "metrics.jsonl").write_text("[1]\n{}\n"), "metrics.jsonl: line 1 is damaged", "curves"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"kind": "warning", "step": 1}\n'),
            "metrics.jsonl: line 1 is damaged (text: Field required)",
            "curves",
        ),
        (lambda run: (run / "environment.json").write_text("[]"), "environment.json: damaged", ""),
        (lambda run: (run / "environment.json").unlink(), "environment.json: missing", ""),
        (rewrite_json("environment.json", gpus="none"), "environment.json: damaged (gpus: ", ""),
        (rewrite_json("summary.json", train_seconds=...), "summary.json: damaged (train_seconds: Field required)", ""),
        (rewrite_json("summary.json", test_accuracy="high"), "summary.json: damaged (test_accuracy: ", ""),
        (rewrite_json("summary.json", test_loss=float("nan")), "summary.json: damaged (test_loss: ", ""),
        (lambda run: (run / "summary.json").write_text("[]"), "summary.json: damaged", ""),
        (
            rewrite_epochs(lambda epoch: epoch["routing"][1].pop("entropy")),
            "1 epochs are damaged and left out (routing.1.entropy: Field required)",
            "",
        ),
        (rewrite_epochs(lambda epoch: epoch.update(test_accuracy="high")), "left out (test_accuracy: ", ""),
        (rewrite_epochs(lambda epoch: epoch["routing"].pop()), "epochs of another network are left out", ""),
        (rewrite_predictions("labels", lambda labels: labels + 0.5), "predictions.npz: damaged", "results"),
        (rewrite_predictions("probabilities", one_nan), "predictions.npz: damaged", "results"),
    ],
)
def test_a_damaged_file_names_itself_and_the_rest_is_shown(
    run: Path, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object], said: str, lost: str, several: bool,
) -> None:  # fmt: skip
    """Plots are painted and not rendered, and nothing is computed by the network: both take long."""
    monkeypatch.setattr(Figure, "savefig", lambda _, file, format, **__: format == "svg" and file.write("<svg ></svg>"))
    (copy / "weights.safetensors").unlink()
    damage(copy)
    folder = copy / "report"

    assert main(["report", *([str(run)] if several else []), str(copy), "--output", str(folder)]) == 0

    page = text(html.unescape((folder / "report.html").read_text()))
    assert said in capsys.readouterr().err and said in page
    shown = {path.stem for path in folder.glob("*.png")}
    if several:
        assert shown == {"runs-accuracy", "runs-loss", "pareto"} and "2 runs" in page
    else:
        lost_plots = {"curves": {"loss", "accuracy", "time", "schedule", "routing-epochs"}}
        of_network = {"corruptions", "ablation", "routing-classes", "kernels"}
        of_results = {"confusion", "reliability"} if lost == "results" else set()
        assert shown == PLOTS - of_network - of_results - lost_plots.get(lost, set())


def test_without_metrics_there_are_no_curves_but_results(copy: Path) -> None:
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join([*lines[:3], "{damaged", *lines[3:]]))

    record = read_record(copy)

    assert record.epochs == [] and record.predictions is not None
    assert any("line 4 is damaged" in problem for problem in record.problems)


def test_predictions_of_other_images_are_not_shown_beside_these(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(copy / "predictions.npz") as arrays:
        found = dict(arrays)
    found["labels"] = np.roll(found["labels"], 1)
    np.savez(copy / "predictions.npz", **found)

    assert main(["report", str(copy)]) == 0

    assert "its test labels are not those of predictions.npz" in capsys.readouterr().err
    assert "most confident mistakes" not in (copy / "report" / "report.html").read_text()


def test_wrong_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in {
        (str(tmp_path),): "is no run directory",
        (str(run), str(run)): "named twice",
        (): "RUNS",
        (str(run), "--output", str(run / "config.yaml")): "cannot be written",
    }.items():
        assert main(["report", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err.splitlines()[-1] and captured.out == ""


def test_several_runs_side_by_side(run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("seed: 0", "seed: 1").replace("experts: 2", "experts: 3"))

    assert main(["report", str(run), str(copy), "--output", str(tmp_path / "both")]) == 0

    page = text((tmp_path / "both" / "report.html").read_text())
    assert "2 runs, 2 configurations" in page
    assert "quick: experts 2" in page and "quick: experts 3" in page and "model.experts 2 3" in page
    assert "right and wrong on the same images" in page
    assert {path.stem for path in (tmp_path / "both").glob("*.svg")} == {"runs-accuracy", "runs-loss", "pareto"}
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_names_are_text_not_markup() -> None:
    names = ("<script>alert(1)</script>", "a$b$ & <b>")
    made = Predictions(torch.tensor([0, 1, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), names, "<i>")
    record = Record(Path("x"), RunConfig(), summary={"data": "<i>"}, predictions=made)

    from dynconv.report.write import _render

    report = one.report_run(record, None, None)
    page = _render("run.html", title=report.title, report=report, again=one.again(record), problems=["<u>"])

    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page and "<u>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # table and both axes of the confusion


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The painted figures by name."""
    painted: dict[str, Figure] = {}

    def keep(name: str, caption: str, paint: Any, *size: float) -> str:
        paint(painted.setdefault(name, Figure()))
        return name

    monkeypatch.setattr(curves, "draw", keep)
    monkeypatch.setattr(plots, "draw", keep)
    return painted


def test_the_curves_show_the_recorded_figures(figures: dict[str, Figure]) -> None:
    epochs = [
        {"epoch": n, "seconds": 10.0 * n, "lr": {"all": 0.1 / n}, "image_size": 24}
        | {f"{split}_{what}": n / 10 for split in ("train", "test") for what in ("loss", "accuracy")}
        for n in (1, 2)
    ]

    curves.curves(epochs, "title")
    curves.overlay({"one": [epochs, epochs], "two": [epochs]})

    def lines(name: str, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
        drawn = figures[name].axes[panel].lines
        return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn}  # type: ignore[arg-type]

    assert lines("accuracy") == {
        "training (augmented images)": ([1, 2], [10, 20]),
        "validation (test set)": ([1, 2], [10, 20]),
    }
    assert lines("time")["validation (test set)"] == ([10, 20], [0.1, 0.2])
    assert lines("schedule") == {"all": ([1, 2], [0.1, 0.05])}
    assert lines("runs-loss", 1)["one (n = 2)"] == ([10, 20], [0.1, 0.2])


def test_the_confusion_shows_counts_and_colours_mistakes(figures: dict[str, Figure]) -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 2])
    made = Predictions(labels, torch.eye(3)[predicted], ("cat", "dog", "owl"), "made up")

    plots.confusion(results.results(made))

    axes = figures["confusion"].axes[0]
    counts = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert counts == {
        (0, 0): "2", (0, 1): "1", (0, 2): "0", (1, 0): "1", (1, 1): "1", (1, 2): "0", (2, 0): "0", (2, 1): "0",
        (2, 2): "1",
    }  # fmt: skip
    shares = np.ma.filled(axes.collections[0].get_array(), np.nan).reshape(3, 3)
    np.testing.assert_allclose(shares, [[np.nan, 100 / 3, 0], [50, np.nan, 0], [0, 0, np.nan]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_the_reliability_diagram_shows_each_bin(figures: dict[str, Figure]) -> None:
    before = results.Calibration(0.2, 1.0, [(0.5, 0.25, 0.5), (0.9, 0.75, 0.5)])
    after = results.Calibration(0.01, 0.5, [(0.4, 0.375, 1.0)])

    plots.reliability(before, after)

    lines = {str(line.get_label()): line.get_xydata().tolist() for line in figures["reliability"].axes[0].lines}  # type: ignore[union-attr]
    assert lines["as it is: ECE 20.0 %"] == [[50, 25], [90, 75]]
    assert lines["temperature scaled: ECE 1.0 %"] == [[40, 37.5]]
    assert lines["perfectly calibrated"] == [[0, 0], [100, 100]]


def test_corruptions_are_bars_from_mild_to_strong(figures: dict[str, Figure]) -> None:
    accuracies = {name: [0.75 - n / 16, 0.5 - n / 16, 0.25 - n / 16] for n, name in enumerate(CORRUPTIONS)}

    plots.robustness(0.875, accuracies)

    axes = figures["corruptions"].axes[0]
    bars = sorted((bar.get_x(), bar.get_height()) for bar in axes.patches)  # type: ignore[attr-defined]
    assert [height for _, height in bars] == [100 * value for values in accuracies.values() for value in values]
    written = [text.get_text() for text in axes.texts]
    assert sorted(written) == sorted(f"{value:g}" for _, strengths, _ in CORRUPTIONS.values() for value in strengths)
    assert axes.lines[-1].get_ydata()[0] == 87.5  # type: ignore[index]


def test_the_ablation_shows_each_replacement_with_its_interval(figures: dict[str, Figure]) -> None:
    mean, shuffled, uniform = Ablation(0.5, 0.25, 0.125), Ablation(0.25, 0.5, 0.0625), Ablation(0.625, 0.125, 0)

    plots.ablation(0.75, {"mean": mean, "shuffled": shuffled, "uniform": uniform})

    axes = figures["ablation"].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [75, 50, 25, 62.5]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "as it is: 75.0%", "their mean: 50.0%", "another image's: 25.0%", "uniform, 1/K: 62.5%",
    ]  # fmt: skip
    intervals = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]  # type: ignore[attr-defined]
    assert intervals == [[75, 75], [37.5, 62.5], [18.75, 31.25], [62.5, 62.5]]


def test_a_plot_takes_the_colour_of_its_page() -> None:
    plot = style.draw("name", "a < b", lambda figure: figure.add_subplot().set_title("$x$"), 2, 1)

    assert "currentColor" in plot.inline and style.ink() not in plot.inline
    assert 'aria-label="a &lt; b"' in plot.inline and "$x$" in plot.inline
    assert style.ink() in plot.svg


def test_explain_draws_an_image_and_goes_on_past_what_is_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shapes.generate(0).test.images[0].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "one.png")
    (tmp_path / "none.png").write_text("no image")
    words = [str(run), str(tmp_path / "none.png"), str(tmp_path / "one.png"), "--output", str(tmp_path)]

    assert main(["explain", *words]) == 1

    said = capsys.readouterr()
    assert "none.png: damaged, or not an image" in said.err
    assert "mean of" in said.out and "%" in said.out
    with Image.open(tmp_path / "one-explained.png") as picture:
        assert picture.size[0] > 1000
