"""The page in a browser: every way in, what it shows, by keyboard, on a phone, in the dark, and without other hosts."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import GIVE, Open, cards, launched, serious_barriers, visiting

from dynconv.serve.limits import Limits

Serving = Callable[..., contextlib.AbstractContextManager[str]]
MEANS = [torch.tensor([[0.5, 0.25, 0.25]]).repeat(10, 1), torch.tensor([[0.125, 0.125, 0.75]]).repeat(10, 1)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    with visiting(browser) as open_page:
        yield open_page


def test_a_drawing_shows_classes_and_routing_beside_the_class_means(serving: Serving, visit: Open) -> None:
    with serving(means=MEANS) as url:
        tab = visit(url)
        tab.get_by_role("button", name="heart").click()
        card = cards(tab, 1).first

        rows = [row.inner_text().split("\n") for row in card.locator(".classes li").all()]
        shares = [float(row[-1].removesuffix(" %")) for row in rows]
        assert card.get_by_role("heading").first.inner_text() == rows[0][0] and len(rows) == 5
        assert shares == sorted(shares, reverse=True)
        track = card.locator(".track").first.bounding_box()["width"]
        bar = card.locator(".track div").first.bounding_box()["width"]
        assert bar / track == pytest.approx(shares[0] / 100, abs=0.01)
        drawn = card.locator(".routing svg[role=img]")
        assert drawn.locator("rect").count() == drawn.locator(".mean").count() == 6
        heights = [float(line.get_attribute("y1")) for line in drawn.locator(".mean").all()]
        assert heights == pytest.approx([8 + 120 * (1 - value) for value in (0.5, 0.25, 0.25, 0.125, 0.125, 0.75)])
        assert f"mean of the class {rows[0][0]}" in card.locator(".key").inner_text()
        card.get_by_text("As numbers").click()
        assert "0.125  0.125  0.750" in card.locator("table").text_content()
        assert re.search(r"heart: \w+, [\d.]+ %", tab.get_by_role("status").text_content())


def test_images_are_chosen_photographed_dropped_and_pasted(
    url: str, visit: Open, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    names = ["one.png", "<b>two.png"]
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(seed))
    (tmp_path / "none.png").write_bytes(b"no image")
    tab = visit(url)
    tab.get_by_role("button", name="heart").wait_for()

    tab.set_input_files("#choose", [tmp_path / name for name in names])
    assert "<b>two.png" in cards(tab, 2).first.inner_text()
    assert "a uniform mixture, 1/K" in cards(tab, 2).first.inner_text()
    tab.set_input_files("#photograph", tmp_path / "one.png")
    cards(tab, 3)
    for number, how in enumerate(("paste", "drop")):
        tab.evaluate(GIVE, [how, list(picture(5))])
        assert "given.png" in cards(tab, 4 + number).first.inner_text()
    tab.set_input_files("#choose", tmp_path / "none.png")
    assert "Not classified" in cards(tab, 6).first.inner_text()
    assert "damaged, or not an image" in cards(tab, 6).first.inner_text()
    tab.get_by_role("button", name="Clear").click()
    assert tab.locator(".card").count() == 0 and not tab.locator("#results").is_visible()


def test_the_keyboard_is_enough(url: str, visit: Open, picture: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(picture())
    tab = visit(url)
    tab.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "one.png"))
    tab.get_by_role("button", name="arrow").wait_for()

    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Choose images"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    cards(tab, 1)
    for _ in range(3):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "arrow":
            break
    tab.keyboard.press("Enter")
    assert "drawing: arrow" in cards(tab, 2).first.inner_text()
    for _ in range(12):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "clear":
            break
    tab.keyboard.press("Space")
    assert tab.locator(".card").count() == 0
    assert tab.evaluate("document.activeElement.textContent") == "Choose images"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360), ("light", 320)])
def test_it_fits_a_phone_and_follows_the_reader_into_the_dark(url: str, visit: Open, scheme: str, width: int) -> None:
    tab = visit(url, color_scheme=scheme, viewport={"width": width, "height": 700}, has_touch=width < 400)
    tab.get_by_role("button", name="star").click()
    cards(tab, 1)

    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    paper, ink = (
        sum(map(int, re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{which}"))))
        for which in ("backgroundColor", "color")
    )
    assert (paper > 600 > 200 > ink) if scheme == "light" else (paper < 200 < 600 < ink)
    tab.goto(f"{url}/docs")
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_serious_barrier(url: str, visit: Open, scheme: str) -> None:
    tab = visit(url, color_scheme=scheme, reduced_motion="reduce")
    tab.get_by_role("button", name="star").click()
    cards(tab, 1)
    assert serious_barriers(tab) == []
    tab.goto(f"{url}/docs")
    assert serious_barriers(tab) == []


def test_a_large_photograph_is_made_smaller_before_it_is_sent(
    serving: Serving, visit: Open, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(picture(0, "PNG", 1800, 300))
    with serving(Limits(pixels=500_000)) as url:
        tab = visit(url)
        tab.get_by_role("button", name="arrow").wait_for()
        tab.set_input_files("#choose", tmp_path / "large.png")
        assert "Not classified" not in cards(tab, 1).first.inner_text()


def test_a_key_is_asked_for_before_anything_is_offered(serving: Serving, browser: Any) -> None:
    with serving(key="sesame") as url:
        tab = browser.new_page()
        tab.set_default_timeout(10_000)
        tab.goto(url)
        field = tab.get_by_label("This server requires a key")
        field.wait_for()
        shown = tab.locator("body").inner_text()
        assert not tab.get_by_role("button", name="Choose images").is_visible()
        assert "Bearer" not in shown and "Authorization" not in shown and "wrong" not in shown
        assert tab.evaluate("document.activeElement.id") == "key-text"
        field.fill("wrong")
        tab.keyboard.press("Enter")
        tab.get_by_text("This key is wrong").wait_for()
        assert "Bearer" not in tab.locator("body").inner_text()
        assert not tab.get_by_role("button", name="Choose images").is_visible()
        field.fill("sesame")
        tab.get_by_role("button", name="Continue").click()
        tab.get_by_role("button", name="Choose images").wait_for()
        assert not field.is_visible()
        tab.get_by_role("button", name="heart").click()
        cards(tab, 1)
        tab.close()
