"""`dynconv export --format web` from the command line: what the folder holds, and sad paths. No browser, no network."""

import base64
import errno
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from untrained import write_run

from dynconv.cli.main import main
from dynconv.data import shapes
from dynconv.export import runtime
from dynconv.inference import class_routing, explain
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig

pytestmark = pytest.mark.usefixtures("few_images")

FILES = {
    "package.json": json.dumps({"name": "onnxruntime-web", "version": runtime.VERSION}).encode(),
    "dist/ort.wasm.bundle.min.mjs": b"script",
    "dist/ort-wasm-simd-threaded.wasm": b"wasm",
}


def unpacked(path: Path, files: dict[str, bytes] = FILES) -> Path:
    """A package of onnxruntime-web as far as an export reads it."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def packed(files: dict[str, bytes] = FILES) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as whole, tarfile.open(fileobj=whole, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("package"))


def outputs(path: Path, count: int) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = shapes.generate(0).test.images[:count].permute(0, 2, 3, 1).contiguous().numpy()
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def test_the_folder_is_complete(run: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "web", "--runtime", str(package)]) == 0

    folder = run / "web"
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(folder) and said[-2] == f"try it: python -m http.server --directory {folder}"
    assert "for 1 and for 7 images" in said[0] and re.match(r"\d+\.\d MB, of which the network \d+\.\d MB", said[1])
    assert (folder / "runtime/onnxruntime.js").read_bytes() == b"script"
    assert (folder / "runtime/onnxruntime.wasm").read_bytes() == b"wasm"
    assert "Copyright (c) Microsoft Corporation" in (folder / "runtime/LICENSE.txt").read_text()
    assert "MIT" in (folder / "runtime/ThirdPartyNotices.txt").read_text()
    page = (folder / "index.html").read_text()
    scripts = "".join(path.read_text() for path in folder.glob("*.js"))
    for name in re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r'from "\./([^"]+)"', scripts):
        assert (folder / name).is_file(), name
    assert "http:" not in page and "https:" not in page

    predictor, test = Predictor.load(run), shapes.generate(0).test
    about = json.loads((folder / "model.json").read_text())
    assert (about["name"], about["data"], about["blocks"], about["experts"]) == ("one", "shapes", 2, [2, 2])
    assert about["classes"] == about["samples"] == list(shapes.CLASSES)
    assert (about["frame"]["size"], about["frame"]["fit"]) == (32, "crop")
    for found, expected in zip(about["class_routing"], class_routing.measure(predictor, test), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = outputs(folder / "model.onnx", 33)
    assert list(found) == ["logits", "probabilities", "routing_1", "routing_2"]
    np.testing.assert_allclose(found["probabilities"], predictor.probabilities(test.images[:33]), atol=1e-5)
    for block, a_NK in enumerate(explain.routing_weights(predictor, test.images[:33]), 1):
        np.testing.assert_allclose(found[f"routing_{block}"], a_NK, atol=1e-5)
    places = [str(run), str(package), str(Path(runtime.__file__).parent)]
    for path in folder.rglob("*.*"):
        assert not any(place.encode() in path.read_bytes() for place in places)


def test_all_but_the_licences_is_kept_for_when_there_is_no_network(run: Path, package: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--format", "web", "--runtime", str(package), "--output", f"{tmp_path}/web"]) == 0

    found = re.search(r"const FILES = (\[.*\]);", (tmp_path / "web/offline.js").read_text())
    assert found
    there = {str(path.relative_to(tmp_path / "web")) for path in (tmp_path / "web").rglob("*") if path.is_file()}
    assert set(json.loads(found[1])) == {"./", *(name for name in there if not name.endswith(".txt"))} - {"offline.js"}


def test_an_earlier_export_is_replaced_as_a_whole(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wider = write_run(tmp_path / "wider", ModelConfig(widths=(8, 16), pools=(4, 2), experts=(1, 3), gate="sparsemax"))
    (tmp_path / "package.tgz").write_bytes(packed())
    words = ["--format", "web", "--runtime", "package.tgz", "--output", "site"]
    assert main(["export", str(run), *words]) == 0
    version = (tmp_path / "site/offline.js").read_text()
    (tmp_path / "site/samples/old.png").touch()

    assert main(["export", str(wider / "weights.safetensors"), *words]) == 0

    assert json.loads((tmp_path / "site/model.json").read_text())["experts"] == [1, 3]
    assert outputs(tmp_path / "site/model.onnx", 2)["routing_2"].shape == (2, 3)
    assert not (tmp_path / "site/samples/old.png").exists()
    assert (tmp_path / "site/offline.js").read_text() != version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package.tgz", "site", "wider"]

    (tmp_path / "site/CNAME").touch()
    capsys.readouterr()
    assert main(["export", str(run), *words]) == 2
    assert "site: holds CNAME, which no export wrote" in capsys.readouterr().err


def test_int8_has_a_folder_of_its_own(run: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "web", "--int8", "--runtime", str(package)]) == 0

    said = capsys.readouterr().out
    assert "in float32" in said and "in int8" in said
    expected = Predictor.load(run).probabilities(shapes.generate(0).test.images[:33])
    found = outputs(run / "web-int8/model.onnx", 33)
    assert found["routing_1"].shape == (33, 2)
    assert 0 < np.abs(found["probabilities"] - expected.numpy()).max() < 0.2


def test_what_the_file_returns_is_compared_before_it_is_kept(
    run: Path, package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = Predictor.load(run).net.routing_weights
    monkeypatch.setattr(
        "dynconv.model.net.Net.routing_weights", lambda _, images: [1 - a_NK for a_NK in weights(images)]
    )

    assert main(["export", str(run), "--format", "web", "--runtime", str(package), "--output", f"{tmp_path}/web"]) == 2

    assert "in a routing weight" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_earlier_folder(
    run: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), "--format", "web", "--runtime", str(package), "--output", str(tmp_path / "web")]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "onnxruntime.wasm":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(words) == 2

    said = capsys.readouterr().err
    assert "web: cannot be written (No space left on device)" in said and len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layout", "nchw"], "layout: --format web needs nhwc"),
        (["--output", "{folder}/file"], "{folder}/file: is a file; --format web writes a folder"),
        (["--output", "{folder}/nowhere/web"], "there is no folder {folder}/nowhere"),
        (["--output", "{folder}"], "{folder}: holds broken, which no export wrote"),
        (["--runtime", "{folder}/nothing.tgz"], "nothing.tgz: cannot be read (No such file or directory)"),
        (["--runtime", "{folder}/file"], "file: cannot be read (not a .tgz file)"),
        (["--runtime", "{folder}/cut.tgz"], "cut.tgz: "),
        (["--runtime", "{folder}/broken"], "broken: not a whole npm package of onnxruntime-web; get onnxruntime-web-"),
        (["--runtime", "{folder}/other"], "other: not a whole npm package of onnxruntime-web"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("something")
    (tmp_path / "cut.tgz").write_bytes(packed()[:-60])
    unpacked(tmp_path / "broken", {"package.json": FILES["package.json"]})
    unpacked(tmp_path / "other", {**FILES, "package.json": b'{"name": "react", "version": "19.0.0"}'})
    before = sorted(tmp_path.rglob("*"))

    words = [word.format(folder=tmp_path) for word in words]
    assert main(["export", str(run), "--format", "web", "--output", f"{tmp_path}/web", *words]) == 2

    captured = capsys.readouterr()
    assert said.format(folder=tmp_path) in captured.err and len(captured.err.splitlines()) == 1
    assert captured.out == "" and sorted(tmp_path.rglob("*")) == before


def test_a_runtime_is_for_the_page_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--runtime", "package.tgz"]) == 2
    assert "runtime: needs --format web" in capsys.readouterr().err


def test_another_version_is_used_and_named(package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = unpacked(tmp_path, {**FILES, "package.json": b'{"name": "onnxruntime-web", "version": "1.2.3"}'})

    assert runtime.load(other).version == "1.2.3"
    assert runtime.load(package).version == runtime.VERSION

    assert caplog.messages == [f"onnxruntime-web 1.2.3: not tested; {runtime.VERSION} was"]


class Registry(BaseHTTPRequestHandler):
    """Counts its answers in `asked`: the package below /good, something else below /other."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path.startswith("/none"):
            self.send_error(404)
            return
        content = packed() if self.path.startswith("/good") else b"<html>please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("dynconv.data.places.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(runtime, "INTEGRITY", base64.b64encode(hashlib.sha512(packed()).digest()).decode())
    monkeypatch.setattr(Registry, "asked", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_package_is_downloaded_once(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "URL", f"{registry}/good/{runtime.PACKAGE}")

    assert runtime.load(None).files["onnxruntime.wasm"] == runtime.load(None).files["onnxruntime.wasm"] == b"wasm"

    assert Registry.asked == 1 and [path.name for path in (tmp_path / "cache").iterdir()] == [runtime.PACKAGE]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("{registry}/none", "answered 404"),
        ("{registry}/other", "the file is not the official one (its sha512 differs)"),
        ("http://127.0.0.1:9", "cannot be reached"),
    ],
)
def test_where_there_is_no_package_nothing_is_written(
    place: str, reason: str, registry: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = f"{place.format(registry=registry)}/{runtime.PACKAGE}"
    monkeypatch.setattr(runtime, "URL", url)

    assert main(["export", str(run), "--format", "web", "--output", str(tmp_path / "web")]) == 2

    said = capsys.readouterr().err.splitlines()[-1]
    assert f"onnxruntime-web: the download failed: {url}: {reason}; " in said
    assert f"use --runtime {runtime.PACKAGE}" in said
    assert not (tmp_path / "web").exists() and not list((tmp_path / "cache").glob("*"))
