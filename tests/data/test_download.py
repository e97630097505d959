"""Downloads from a local HTTP server that behaves well, badly and worse."""

import hashlib
import io
import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dynconv.data import download as module
from dynconv.data.dataset import DataError
from dynconv.data.download import Official, download

FILE = "images.tar.gz"
CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.strip("/")
        if kind == "404":
            self.send_error(404)
            return
        body = b"<html>please log in</html>" if kind == "wrong" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "stalled":
            self.wfile.write(body[:1000])
            self.wfile.flush()
            time.sleep(3)
        elif kind == "slow":
            for start in range(0, len(body), 200_000):
                self.wfile.write(body[start : start + 200_000])
                time.sleep(0.05)
        else:
            self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(folder: Path, *urls: str) -> Path:
    return download(folder, FILE, urls, f"md5:{MD5}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", ["good", "slow"])
def test_the_archive_arrives_whole(
    server: str,
    tmp_path: Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "dynconv")

    path = get(tmp_path / "new", f"{server}/{kind}")

    assert path == tmp_path / "new" / FILE and path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [FILE]
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("dynconv")]
    assert f"{server}/{kind}" in message and str(tmp_path / "new") in message
    assert capsys.readouterr() == ("", "")  # no bar where there is no terminal


@pytest.mark.parametrize("kind", ["good", "cut"])
def test_the_progress_bar_goes_to_standard_error_and_ends(
    server: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    for variable, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("TTY_COMPATIBLE", "1")):
        monkeypatch.setenv(variable, value)

    if kind == "good":
        get(tmp_path, f"{server}/{kind}")
    else:
        with pytest.raises(DataError):
            get(tmp_path, f"{server}/{kind}")

    shown = sys.stderr.getvalue()
    hide_cursor, show_cursor = "\x1b[?25l", "\x1b[?25h"
    assert FILE in shown and shown.rfind(show_cursor) > shown.rfind(hide_cursor) > -1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("404", "answered 404"),
        ("cut", "broke off"),
        ("wrong", "md5 differs"),
        ("stalled", "timed out"),
    ],
)
def test_a_bad_mirror_is_passed_over_and_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", (5, 0.5))

    with pytest.raises(DataError) as caught:
        get(tmp_path / "cache/set", f"{server}/{kind}")
    assert f"{server}/{kind}" in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "cache").mkdir()
    with pytest.raises(DataError):
        get(tmp_path / "cache", f"{server}/{kind}")
    assert list(tmp_path.rglob("*")) == [tmp_path / "cache"], "a folder that was there stays"

    assert get(tmp_path, f"{server}/{kind}", f"{server}/good").read_bytes() == CONTENT


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be reached"):
        get(tmp_path, "http://127.0.0.1:1/x")


def test_a_folder_that_cannot_be_written_is_named(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DataError, match=r"file.*cannot be written"):
        get(tmp_path / "file" / "cache", f"{server}/good")


def test_official_files_come_into_the_folder_of_their_data_set_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dynconv")
    monkeypatch.setattr("dynconv.data.places.cache_folder", lambda: tmp_path)
    two = Official("toy", {"good": MD5, "slow": MD5}, 2, (f"{server}/404/", f"{server}/"))

    for _ in range(2):
        assert two.download() == tmp_path / "toy"
        assert sorted(file.name for file in (tmp_path / "toy").iterdir()) == ["good", "slow"]
    assert caplog.messages.count("toy is not here: 2 MB to download") == 1
