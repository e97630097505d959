"""The page about several runs: its table is sorted and filtered in a browser, and is whole without a script."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Open, launched, serious_barriers, visiting
from summaries import SUMMARY
from tiny import MODEL

from dynconv.artifacts.records import Config
from dynconv.report.record import RunRecord
from dynconv.report.runs_page import runs_page

ODD = "<u>odd"


def record(name: str, seed: int, accuracy: float | None, tta: float | None = None) -> RunRecord:
    config = Config(preset="quick", seed=seed, epochs=2, image_sizes=(16,), tta=tta is not None, model=MODEL)
    figures = {"test_accuracy": accuracy, "test_accuracy_tta": tta, "seed": seed}
    return RunRecord(Path(name), config, summary=SUMMARY.model_copy(update=figures) if accuracy is not None else None)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs, of which one has not ended, and of the others one has a second figure."""
    folder = tmp_path_factory.mktemp("report")
    runs = [record("s10", 10, 0.9), record("s1", 1, None), record("s2", 2, 0.095, 0.12345), record(ODD, 30, 0.89996)]
    written, _ = runs_page(runs, folder)
    (folder / "report.html").write_text(written, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched("--disable-gpu", "--disable-background-networking") as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    with visiting(browser) as open_page:
        yield open_page


def names(tab: Any) -> list[str]:
    """The runs that are shown, in their order."""
    return tab.locator("#runs tbody tr:visible th").all_inner_texts()


def test_the_table_is_whole_without_a_script_and_only_the_pages_own_may_run(page: Path) -> None:
    written = page.read_text(encoding="utf-8")

    (script,) = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    checksum = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{checksum}'; img-src" in written
    without = written.replace(script, "")
    assert ODD not in written and "<button" not in without and "<input" not in without and " hidden" not in without
    assert '<td data-number="0.89996">90.00 %</td>' in written and written.count('<td data-number="">-</td>') == 4


def test_a_header_sorts_by_keyboard_numbers_as_numbers_and_what_is_missing_last(page: Path, visit: Open) -> None:
    tab = visit(page.as_uri())
    assert names(tab) == ["s10", "s1", "s2", ODD] and tab.locator("[aria-sort]").count() == 0

    for header, up, down in (
        ("test accuracy", ["s2", ODD, "s10", "s1"], ["s10", ODD, "s2", "s1"]),
        ("seed", ["s1", "s2", "s10", ODD], [ODD, "s10", "s2", "s1"]),
        ("run", [ODD, "s1", "s2", "s10"], ["s10", "s2", "s1", ODD]),
        ("with augmentation", ["s2", "s10", "s1", ODD], ["s2", "s10", "s1", ODD]),  # equal ones as they were written
    ):
        cell = tab.locator("#runs").get_by_role("columnheader", name=header, exact=True)
        cell.get_by_role("button").focus()
        for key, direction, order in (("Enter", "ascending", up), ("Space", "descending", down)):
            tab.keyboard.press(key)
            assert cell.get_attribute("aria-sort") == direction and tab.locator("[aria-sort]").count() == 1
            assert names(tab) == order, (header, direction)


def test_a_text_hides_the_rows_without_it_but_not_on_paper(page: Path, visit: Open) -> None:
    tab = visit(page.as_uri())
    field, said = tab.get_by_label("Only runs with"), tab.get_by_role("status")
    assert said.inner_text() == "4 of 4 runs shown"

    for text, shown in {" S1": ["s10", "s1"], "90.00 %": ["s10", ODD], "<U>": [ODD], "nothing": []}.items():
        field.fill(text)
        assert names(tab) == shown and said.inner_text() == f"{len(shown)} of 4 runs shown"
    tab.emulate_media(media="print")
    assert len(names(tab)) == 4 and not field.is_visible() and not said.is_visible()
    arrow = "getComputedStyle(document.querySelector('#runs thead button'), '::after').display"
    assert tab.evaluate(arrow) == "none"


def test_without_javascript_there_are_no_controls(page: Path, visit: Open) -> None:
    tab = visit(page.as_uri(), java_script_enabled=False)

    assert len(names(tab)) == 4 and tab.locator("#runs :is(button, input, output)").count() == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_has_no_serious_barrier_and_fits_the_screen(page: Path, visit: Open, scheme: str, width: int) -> None:
    tab = visit(page.as_uri(), color_scheme=scheme, viewport={"width": width, "height": 900})
    tab.get_by_role("button", name="seed").click()

    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert serious_barriers(tab) == []
