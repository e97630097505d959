"""The exported page in a browser: the predictor's probabilities, Pillow's pixels, every way in, the camera, offline."""

import base64
import contextlib
import functools
import io
import logging
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from browser import GIVE, Open, cards, launched, serious_barriers, visiting
from PIL import Image
from untrained import PLAIN, write_run

from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.data.frame import Fit, Frame
from dynconv.errors import DynconvError
from dynconv.export import runtime
from dynconv.inference import explain
from dynconv.inference.predictor import Predictor, to_pixels

SIZES = ((32, 32), (33, 32), (31, 47), (1, 1), (5, 120), (64, 64), (97, 40), (240, 320), (641, 480), (700, 33))
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(*CAMERA) as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    with visiting(browser) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one", PLAIN)


@pytest.fixture(scope="module")
def folder(browser: Any, run: Path) -> Path:
    """The exported page, with the onnxruntime-web that people get."""
    try:
        runtime.load(None)
    except DynconvError as error:
        pytest.skip(f"{error}; not tested: the exported page in a browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "generate", functools.cache(functools.partial(shapes.generate, test_images=120)))
        assert main(["export", str(run), "--format", "web"]) == 0
    logging.getLogger("dynconv").handlers.clear()  # the command's, to which later tests would print
    return run / "web"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    drawn = np.random.default_rng(width * 1000 + height + channels).integers(0, 256, (height, width, channels))
    return Image.fromarray(drawn.astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def fifty_files() -> list[bytes]:
    """PNG files of ten sizes, of noise and of figures: colour, grey, palette, half transparent."""
    made = []
    figures = shapes.generate(0).test.images
    for number, size in enumerate(SIZES):
        figure = Image.fromarray(figures[number].permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
        clear = figure.copy()
        clear.putalpha(noise(*size).convert("L"))
        grey = noise(*size).convert("L")
        made += [encoded(each) for each in (noise(*size), figure, clear, grey, figure.quantize(30))]
    return made


CLASSIFY = """async (files) => {
  const worker = new Worker("network.js", { type: "module" });
  const reply = () => new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
  await reply();
  const found = [];
  for (const [id, file] of files.entries()) {
    const picture = new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]);
    worker.postMessage({ id: id + 1, picture });
    found.push(await reply());
  }
  worker.terminate();
  return found;
}"""


def test_the_browser_finds_the_probabilities_of_the_predictor(run: Path, url: str, visit: Open) -> None:
    files, predictor = fifty_files(), Predictor.load(run, device="cpu")
    assert len(files) == 50

    found = visit(url).evaluate(CLASSIFY, [base64.b64encode(file).decode() for file in files])

    pixels = torch.stack([to_pixels(io.BytesIO(file), Frame()) for file in files])
    expected = predictor.probabilities(pixels)
    assert expected.max(1).values.std() > 0.05  # images that differ
    np.testing.assert_allclose([each["probabilities"] for each in found], expected, rtol=0, atol=1e-3)
    for block, a_NK in enumerate(explain.routing_weights(predictor, pixels)):
        np.testing.assert_allclose([each["routing"][block] for each in found], a_NK, rtol=0, atol=1e-3)


FRAME = """async ([file, wanted]) => {
  const { decoded, framed } = await import(new URL("image.js", location.href));
  const { frame } = await (await fetch("model.json")).json();
  const image = await decoded(new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]));
  return btoa(String.fromCharCode(...framed(image, { ...frame, ...wanted })));
}"""


def framed(tab: Any, file: bytes, size: int, fit: str = "crop") -> np.ndarray:
    """What the page makes of a file: uint8 [size, size, 3]."""
    answer = tab.evaluate(FRAME, [base64.b64encode(file).decode(), {"size": size, "fit": fit}])
    return np.frombuffer(base64.b64decode(answer), np.uint8).reshape(size, size, 3)


@pytest.mark.parametrize("fit", get_args(Fit))
def test_pictures_are_framed_bit_for_bit_as_by_pillow(fit: Fit, url: str, visit: Open) -> None:
    tab = visit(url)
    for size in (32, 45, 96):
        for shape in (*SIZES, (96, 31), (45, 46), (1300, 5)):
            image = noise(*shape)
            expected = np.asarray(Frame(size, fit).of(image))
            assert np.array_equal(framed(tab, encoded(image), size, fit), expected), (size, shape)


def test_orientation_and_transparency_are_as_we_read_them(url: str, visit: Open) -> None:
    tab = visit(url)
    clear = encoded(noise(64, 48, 4))
    assert np.array_equal(framed(tab, clear, 32).transpose(2, 0, 1), to_pixels(io.BytesIO(clear), Frame()))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        file = encoded(shapes_row(), "JPEG", exif=exif, quality=95)
        expected = to_pixels(io.BytesIO(file), Frame()).numpy().transpose(1, 2, 0)
        difference = np.abs(framed(tab, file, 32).astype(int) - expected)
        assert difference.max() <= 3, orientation  # decoders of JPEG may round otherwise; a wrong turn is far off


def shapes_row() -> Image.Image:
    """Three figures side by side, which no turn or mirror leaves as they are."""
    images = shapes.generate(0).test.images[:3].permute(0, 2, 3, 1).numpy()
    return Image.fromarray(np.concatenate(list(images), 1)).resize((300, 100), Image.Resampling.BICUBIC)


def test_a_drawing_shows_classes_and_routing_beside_the_class_means(url: str, visit: Open) -> None:
    tab = visit(url)
    tab.get_by_role("button", name="heart").click()
    card = cards(tab, 1).first

    rows = [row.inner_text().split("\n") for row in card.locator(".classes li").all()]
    assert card.get_by_role("heading").first.inner_text() == rows[0][0] and len(rows) == 5
    assert card.locator(".routing svg[role=img] rect").count() == 4
    assert f"mean of the class {rows[0][0]}" in card.locator(".key").inner_text()
    assert re.search(r"heart: \w+, [\d.]+ %", tab.locator("#said").text_content())
    assert "one, trained on shapes, knows 10 classes" in tab.locator("#model").inner_text()
    assert not tab.get_by_text("Loading the network").count() and not tab.get_by_text("Nothing happens?").count()


def test_images_are_chosen_dropped_and_pasted(url: str, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "<b>one.png").write_bytes(encoded(noise(40, 36)))
    (tmp_path / "none.png").write_bytes(b"no image")
    tab = visit(url)
    tab.get_by_role("button", name="heart").wait_for()

    tab.set_input_files("#choose", tmp_path / "<b>one.png")
    assert "<b>one.png" in cards(tab, 1).first.inner_text()
    for number, how in enumerate(("paste", "drop")):
        tab.evaluate(GIVE, [how, list(encoded(noise(40, 36)))])
        assert "given.png" in cards(tab, 2 + number).first.inner_text()
    tab.set_input_files("#choose", tmp_path / "none.png")
    assert "This file could not be read as an image." in cards(tab, 4).first.inner_text()
    tab.get_by_role("button", name="Clear").click()
    assert tab.locator("#cards .card").count() == 0


def test_the_camera_is_watched_until_it_is_stopped(url: str, visit: Open) -> None:
    tab = visit(url, permissions=["camera"])
    tab.get_by_role("button", name="Use the camera").focus()
    tab.keyboard.press("Enter")
    live = tab.locator("#camera .card")
    live.locator(".classes li").nth(4).wait_for()

    live.get_by_text("As numbers").click()
    table = live.locator("details table")
    first = table.element_handle()
    tab.wait_for_function("table => !table.isConnected", arg=first)  # another picture has come
    assert table.is_visible()  # what was unfolded stays so
    assert re.match(r"\d+ ms", live.locator(".name").inner_text())
    assert tab.locator("#said").text_content().startswith("camera: ")
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    tab.get_by_role("button", name="Stop the camera").click()
    assert not live.is_visible()
    assert tab.evaluate("document.activeElement.id") == "look"
    assert tab.evaluate("document.querySelector('video').srcObject") is None


REFUSE = """() => {
  const error = new DOMException("Permission denied", "NotAllowedError");
  navigator.mediaDevices.getUserMedia = () => Promise.reject(error);
}"""


def test_a_camera_that_cannot_be_used_is_explained(url: str, visit: Open) -> None:
    tab = visit(url)
    tab.evaluate(REFUSE)
    tab.get_by_role("button", name="Use the camera").click()
    assert "does not let this page use the camera" in tab.get_by_role("alert").inner_text()
    assert not tab.locator("#camera").is_visible()


def test_it_works_without_its_server_once_it_was_loaded(folder: Path, visit: Open) -> None:
    with serving(folder) as url:
        tab = visit(url)
        tab.get_by_text("works without a network connection").wait_for()
    tab.reload()

    tab.get_by_role("button", name="star").click()
    assert "%" in cards(tab, 1).first.inner_text()


def test_a_newer_export_is_shown_at_once(folder: Path, visit: Open, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.symlink_to(folder)
    with serving(site) as url:
        tab = visit(url)
        tab.get_by_text("works without a network connection").wait_for()
        newer = tmp_path / "newer"
        newer.mkdir()
        for path in folder.iterdir():
            (newer / path.name).symlink_to(path)
        (newer / "model.json").unlink()
        (newer / "model.json").write_text((folder / "model.json").read_text().replace('"one"', '"another"'))
        site.unlink()
        site.symlink_to(newer)
        tab.reload()
        tab.get_by_text("another, trained on shapes").wait_for()


def test_a_network_that_cannot_be_loaded_is_said(folder: Path, browser: Any, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "model.onnx":
            (tmp_path / path.name).symlink_to(path)
    with serving(tmp_path) as url:
        tab = browser.new_page()
        tab.goto(url)
        tab.get_by_text("The network could not be loaded: model.onnx: the web server answered 404").wait_for()
        assert not tab.locator("#drop").is_visible()
        tab.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390), ("light", 320)])
def test_it_fits_a_phone_and_follows_the_reader_into_the_dark(url: str, visit: Open, scheme: str, width: int) -> None:
    tab = visit(url, color_scheme=scheme, viewport={"width": width, "height": 700}, permissions=["camera"])
    tab.get_by_role("button", name="star").click()
    cards(tab, 1)
    tab.get_by_role("button", name="Use the camera").click()
    tab.locator("#camera .classes").wait_for()

    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    paper = sum(map(int, re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))))
    assert (paper > 600) if scheme == "light" else (paper < 200)
    assert serious_barriers(tab) == []


def test_the_keyboard_is_enough(url: str, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(noise(40, 36)))
    tab = visit(url)
    tab.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "one.png"))
    tab.get_by_role("button", name="heart").wait_for()

    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Choose images"
    tab.keyboard.press("Enter")
    assert "one.png" in cards(tab, 1).first.inner_text()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Use the camera"
