"""The report of a real run on generated images: the page, its plots, in a browser, and with files missing."""

import functools
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dynconv.cli import main
from dynconv.config import RunConfig
from dynconv.data import shapes
from dynconv.training.rundir import Predictions
from dynconv.using.report import curves, one, style
from dynconv.using.report.record import Record, read_record

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

    from dynconv.using.report import _render

    report = one.report_run(record, None, None)
    page = _render("run.html", title=report.title, report=report, again=one.again(record), problems=["<u>"])

    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page and "<u>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # table and both axes of the confusion


def test_the_curves_show_the_recorded_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Figure] = {}

    def keep(name: str, caption: str, paint: Any, *size: float) -> str:
        paint(figures.setdefault(name, Figure()))
        return name

    monkeypatch.setattr(curves, "draw", keep)
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

    assert main(["explain", *words]) == 2

    said = capsys.readouterr()
    assert "none.png: damaged, or not an image" in said.err
    assert "mean of" in said.out and "%" in said.out
    with Image.open(tmp_path / "one-explained.png") as picture:
        assert picture.size[0] > 1000
