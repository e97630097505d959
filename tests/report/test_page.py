"""The report of a real run on generated images: the page, its plots, in a browser, and with files missing."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import chromium, launched, serious_barriers
from matplotlib.figure import Figure
from PIL import Image
from summaries import SUMMARY
from tiny import MODEL

from dynconv.artifacts.predictions import Predictions
from dynconv.artifacts.records import Config
from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.report.record import RunRecord, read_record
from dynconv.report.run_page import run_page
from dynconv.report.subject import Subject

PLOTS = {
    "loss", "accuracy", "time", "schedule", "architecture", "confusion", "reliability", "coverage", "precision-recall",
    "corruptions", "ablation", "routing-classes", "routing-epochs", "kernels",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(trained: Path) -> Path:
    """A trained run, with the report that ends its training."""
    return trained


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "state.pt")))


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_training_ends_with_a_page_that_says_what_the_run_did(run: Path, page: str) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    found = text(page)

    assert f"{summary['test_accuracy']:.2%} 95 % interval " in found
    assert "generated: this accuracy says nothing about CIFAR-10" in found
    assert json.loads((run / "environment.json").read_text(encoding="utf-8"))["command"] in html.unescape(found)
    assert f"dynconv train --config {run}/config.yaml" in found
    for name, value in {"model.widths": "8, 8", "optim.lr": "0.17", "augment.flip": "alternating"}.items():
        assert f"{name} {value}" in found
    assert re.search(r"(Routing matters|Routing makes no measurable difference|Routing does harm): giving", found)
    assert "optim.sgd_momentum 0.85 Momentum of biases and head, with muon." in found
    assert "trained at 16 px tested at 32 px" in found
    for name in shapes.CLASSES:
        assert name in found


def test_every_plot_is_in_the_page_and_beside_it_as_png_and_svg(run: Path, page: str) -> None:
    folder = run / "report"

    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.svg")} == PLOTS
    assert set(re.findall(r'<figure id="([^"]+)"', page)) == PLOTS
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 100 and len(np.unique(np.asarray(image.convert("L")))) > 10
    assert len(page) < 6_000_000


def test_the_page_is_complete_in_itself(page: str) -> None:
    assert page.count("<script>") == page.count("<script") == 1 and "<link" not in page
    sources = re.findall(r'(?:src|xlink:href|[^:]href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources and all(source.startswith(("#", "data:image/")) for source in sources)
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_a_browser_shows_it_light_dark_and_narrow_without_complaint(run: Path) -> None:
    from playwright.sync_api import sync_playwright

    executable = chromium()
    said: list[str] = []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=executable, args=options)
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
            settings = "[...document.querySelectorAll('.settings')].map(each => each.parentElement)"
            assert tab.evaluate(f"{settings}.every(each => each.scrollWidth <= each.clientWidth)")
            if width < 600:  # the network is legible without scrolling; what is wider scrolls, and shows that it does
                figure = "document.querySelector('#architecture svg')"
                assert tab.evaluate(f"{figure}.getBoundingClientRect().right <= innerWidth")
                assert tab.evaluate(f"{figure}.querySelector('text').getBoundingClientRect().height") > 8
                wide = "[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth)"
                assert tab.evaluate(f"{wide}.length") > 3
                assert "gradient" in tab.evaluate(f"getComputedStyle({wide}[0]).backgroundImage")
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


def test_on_a_phone_sections_open_by_their_titles_and_links_and_on_paper(run: Path) -> None:
    with launched() as browser:
        tab = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        tab.goto((run / "report" / "report.html").as_uri())
        count = tab.locator("main details").count()
        is_open = tab.locator("main details[open]").count
        assert is_open() == 1
        assert tab.evaluate("document.documentElement.scrollHeight") < 7 * 844
        assert serious_barriers(tab) == []

        tab.get_by_role("link", name="Environment").click()
        command = tab.get_by_text("dynconv train --config")
        command.wait_for()
        tab.locator("summary").nth(1).click()
        assert is_open() == 3

        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert is_open() == count
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert is_open() == 3


def test_on_a_wide_screen_and_without_javascript_all_sections_are_open(run: Path) -> None:
    with launched() as browser:
        for width, scripts in ((1280, True), (390, False)):
            tab = browser.new_context(viewport={"width": width, "height": 844}, java_script_enabled=scripts).new_page()
            tab.goto((run / "report" / "report.html").as_uri())
            assert tab.locator("main details").count() == tab.locator("main details[open]").count() > 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_serious_barrier(run: Path, scheme: str) -> None:
    with launched() as browser:
        tab = browser.new_context(color_scheme=scheme).new_page()
        tab.goto((run / "report" / "report.html").as_uri())

        assert serious_barriers(tab) == []


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "environment.json").write_text("{")
    (copy / "predictions.npz").write_bytes((copy / "predictions.npz").read_bytes()[:1000])
    (copy / "weights.safetensors").unlink()
    (copy / "summary.json").write_text('{"test_accuracy": ')

    assert main(["report", str(copy)]) == 0

    said = capsys.readouterr()
    page = text((copy / "report" / "report.html").read_text(encoding="utf-8"))
    for name in ("environment.json", "predictions.npz", "summary.json", "no weights"):
        assert name in said.err and name in page
    shown = {path.stem for path in (copy / "report").glob("*.png")}
    assert shown == {"loss", "accuracy", "time", "schedule", "architecture", "routing-epochs"}
    assert "Traceback" not in said.err


def rewrite_json(name: str, **changes: object) -> Callable[[Path], object]:
    """Has fields of a JSON file changed; those that become `...` are left out."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text(encoding="utf-8")) | changes
        (run / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def rewrite_epochs(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def rewrite(run: Path) -> None:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
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
            "metrics.jsonl: 1 damaged lines are left out; the first is line 1 (text: Field required)",
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
            "1 damaged lines are left out; the first is line 42 (routing.1.entropy: Field required)",
            "",
        ),
        (
            rewrite_epochs(lambda epoch: epoch.update(test_accuracy="high")),
            "left out; the first is line 42 (test_accuracy: ",
            "",
        ),
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

    page = text(html.unescape((folder / "report.html").read_text(encoding="utf-8")))
    assert said in capsys.readouterr().err and said in page
    shown = {path.stem for path in folder.glob("*.png")}
    if several:
        assert shown == {"runs-accuracy", "runs-loss", "pareto"} and "2 runs" in page
    else:
        lost_plots = {"curves": {"loss", "accuracy", "time", "schedule", "routing-epochs"}}
        of_network = {"corruptions", "ablation", "routing-classes", "kernels"}
        lost_results = {"confusion", "reliability", "coverage", "precision-recall"}
        of_results = lost_results if lost == "results" else set()
        assert shown == PLOTS - of_network - of_results - lost_plots.get(lost, set())


def test_without_metrics_there_are_no_curves_but_results(copy: Path) -> None:
    lines = (copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
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
    assert "most confident mistakes" not in (copy / "report" / "report.html").read_text(encoding="utf-8")


def test_wrong_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in {
        (str(tmp_path),): "not a run directory",
        (str(run), str(run)): "named twice",
        (): "RUN [RUN ...] is missing: Run directories",
        (str(run), "--output", str(run / "config.yaml")): "cannot be written",
    }.items():
        assert main(["report", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err.splitlines()[-1] and captured.out == ""


def test_several_runs_side_by_side(run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("seed: 0", "seed: 1").replace("experts:\n  - 2", "experts:\n  - 3")
    (copy / "config.yaml").write_text(config)

    assert main(["report", str(run), str(copy), "--output", str(tmp_path / "both")]) == 0

    written = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^#"]+)">([^<]+)</a>', written)
    assert [name for _, name in links] == ["first"]  # the copy has no page
    assert (tmp_path / "both" / links[0][0]).resolve() == (run / "report" / "report.html").resolve()
    page = text(written)
    assert "2 runs, 2 configurations" in page and "quick: experts 3 model.experts 3" in page
    assert "quick: experts 2" in page and "quick: experts 3" in page and "model.experts 2 3" in page
    assert "right and wrong on the same images" in page
    assert {path.stem for path in (tmp_path / "both").glob("*.svg")} == {"runs-accuracy", "runs-loss", "pareto"}
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_the_report_beside_the_runs_is_no_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So `dynconv report runs/*` works a second time, too."""
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "handed-in").mkdir()
    (tmp_path / "handed-in" / "report.md").touch()
    for _ in range(2):
        assert main(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0

    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "report", "handed-in"}
    assert "2 runs" in text((tmp_path / "report/report.html").read_text(encoding="utf-8"))
    assert main(["report", str(tmp_path / "report")]) == 2 and "not a run directory" in capsys.readouterr().err


def test_names_are_text_not_markup() -> None:
    names = ("<script>alert(1)</script>", "a$b$ & <b>")
    made = Predictions(torch.tensor([0, 1, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), names, "<i>")
    config = Config(seed=0, epochs=1, image_sizes=(16,), tta=False, model=MODEL)
    summary = SUMMARY.model_copy(update={"data": "<i>"})
    record = RunRecord(Path("x"), config, summary=summary, predictions=made, problems=["<u>"])

    page, _ = run_page(Subject(record))

    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page and "<u>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # table and both axes of the confusion


def test_a_run_of_the_first_release_has_a_page(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "artifacts/format-1/finished"
    run = Path(shutil.copytree(old, tmp_path / "old"))

    assert main(["report", str(run)]) == 0

    page = text((run / "report" / "report.html").read_text(encoding="utf-8"))
    assert "whitening: epsilon 0.0005" in page and "model.gate softmax" in page
    assert {path.stem for path in (run / "report").glob("*.png")} == PLOTS
