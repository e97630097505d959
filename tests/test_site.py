"""The site of the documentation: it is built without a warning, and reads well in a browser, without a network."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, serious_barriers

import dynconv
from dynconv import data, layer

ROOT = Path(__file__).parents[1]


def build(folder: Path, **environment: str) -> Path:
    """The site in a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make site` builds it, elsewhere."""
    return build(tmp_path_factory.mktemp("site"))


def test_the_make_targets_build_it_so(site: Path, tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert makefile.count("python -m mkdocs build --strict --quiet") == 2
    assert "<iframe" not in (site / "index.html").read_text(encoding="utf-8")

    ((page, export),) = re.findall(r"DYNCONV_SITE_CLASSIFIER=(\S+)[^\n]*\n[^\n]*--output build/site/(\S+)", makefile)
    assert page == f"{export}/index.html"
    live = build(tmp_path, DYNCONV_SITE_CLASSIFIER=page)
    assert f'<iframe src="{page}"' in (live / "index.html").read_text(encoding="utf-8")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link rel=\"?(?:stylesheet|icon|preconnect)\"? href=\"?([^\" >]+)", text)
        assert loaded and not [address for address in loaded if re.match(r"https?:|//", address)], page


def test_code_that_a_page_links_to_is_a_page_itself(site: Path) -> None:
    assert 'href="source/src/dynconv/layer/routing.py.html"' in (site / "assignment.html").read_text(encoding="utf-8")
    code = (site / "source/src/dynconv/layer/routing.py.html").read_text(encoding="utf-8")
    assert "Router" in code and 'class="highlight"' in code


def test_the_reference_has_every_public_name(site: Path) -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in site.glob("reference*.html"))
    for package in (dynconv, layer, data):
        for name in set(package.__all__) - {"__version__", "NAMED"}:
            assert re.search(rf'id="[\w.]+\.{name}"', shown), name


def test_the_diagram_of_the_packages_is_that_of_the_imports() -> None:
    script = runpy.run_path(str(ROOT / "docs/modules.py"))

    assert script["drawing"]() == script["PICTURE"].read_text(encoding="utf-8"), "run: python docs/modules.py"


@pytest.fixture(scope="module")
def pages(site: Path) -> Iterator[tuple[Path, object]]:
    from playwright.sync_api import sync_playwright

    executable = chromium()
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        yield site, browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_never_wider_than_the_screen(pages: tuple[Path, object], width: int) -> None:
    site, browser = pages
    page = browser.new_page(viewport={"width": width, "height": 900})
    for name in ("index", "tutorial", "troubleshooting", "does-it-help", "layer", "reference", "reference-layer"):
        page.goto((site / f"{name}.html").as_uri(), wait_until="domcontentloaded")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_barrier(pages: tuple[Path, object], scheme: str) -> None:
    """Of those that axe-core finds, such as words too pale to read, or what the keyboard cannot reach."""
    site, browser = pages
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce", viewport={"width": 1280, "height": 900})
    # Code, tables wider than the screen, the reference, many links.
    for name in ("index", "assignment", "layer", "does-it-help", "reference-layer", "source/CHANGELOG"):
        page.goto((site / f"{name}.html").as_uri())
        assert serious_barriers(page) == [], name
    page.close()


@pytest.mark.slow
def test_the_search_works_from_disk(pages: tuple[Path, object]) -> None:
    site, browser = pages
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "index.html").as_uri(), wait_until="domcontentloaded")
    page.fill("input[name=query]", "sparsemax")
    page.wait_for_selector(".md-search-result__item", timeout=120_000)
    assert "layer.html" in (page.get_attribute(".md-search-result__item a", "href") or "")
    page.close()
