"""The browser in which the pages are tested, and what is done in it."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Open = Callable[..., Any]
GIVE = """([how, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
  const given = { clipboardData: data, dataTransfer: data };
  document.dispatchEvent(how === "paste" ? new ClipboardEvent(how, given) : new DragEvent(how, given));
}"""
"""Pastes or drops a PNG file."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The path of a Chromium: of the one that the variable CHROMIUM names, or else of any that is installed."""
    named = os.environ.get("CHROMIUM")
    for name in (named,) if named else NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: apt install chromium, or name it in CHROMIUM; not tested: the pages in a browser")


@contextlib.contextmanager
def launched(*options: str) -> Iterator[Any]:
    """A Chromium with these options."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; not tested: the pages in a browser")
    path = chromium()
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *options])
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser: Any) -> Iterator[Open]:
    """Opens a URL; at the end nothing must have been said in the console or asked of another host."""
    said: list[str] = []
    opened: list[Any] = []

    def open_page(url: str, **settings: Any) -> Any:
        context = browser.new_context(**settings)
        opened.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)  # compiling WebAssembly on a busy machine takes a while
        # Chromium notes every answer that is an error; the page is to show it.
        tab.on("console", lambda message: message.text.startswith("Failed to load") or said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: request.url.startswith((url, "blob:")) or said.append(request.url))
        tab.goto(url)
        return tab

    yield open_page
    for context in opened:
        context.close()
    assert said == []


def serious_barriers(tab: Any) -> list[tuple[str, str]]:
    """What axe-core finds of impact serious or critical, such as words too pale to read: the rule, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python: make test")
    found = axe.Axe().run(tab).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


def cards(tab: Any, count: int) -> Any:
    """The finished cards among the results, of which there must be `count`."""
    found = tab.locator("#cards .card:not(.waiting)")
    found.nth(count - 1).wait_for()
    assert found.count() == count
    return found
