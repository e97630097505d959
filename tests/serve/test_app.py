"""The interface over real connections: what it answers, what it refuses, and what it never says."""

import contextlib
import io
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
import torch
from fastapi import HTTPException
from PIL import Image
from torch import Tensor

from dynconv.data import shapes
from dynconv.data.frame import Frame
from dynconv.inference import explain
from dynconv.inference.predictor import Predictor, to_pixels
from dynconv.serve.gate import Gate
from dynconv.serve.limits import Limits

Picture = Callable[..., bytes]
Serving = Callable[..., contextlib.AbstractContextManager[str]]
PNG = {"Content-Type": "image/png"}


def test_an_image_gets_the_classes_that_predict_gives(url: str, picture: Picture, predictor: Predictor) -> None:
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        file = picture(1, form, 50, 90)
        answer = requests.post(f"{url}/v1/predict?top=2&routing=true", file, headers=PNG)

        assert answer.status_code == 200
        (found,) = answer.json()["images"]
        expected = predictor.predict(io.BytesIO(file), top=2)
        assert [one["class"] for one in found["top"]] == [name for name, _ in expected.top]
        assert [one["probability"] for one in found["top"]] == pytest.approx([value for _, value in expected.top])
        assert (found["class"], found["probability"]) == (found["top"][0]["class"], found["top"][0]["probability"])
        routing = explain.routing_weights(predictor, to_pixels(io.BytesIO(file), Frame())[None])
        for a_K, a_NK in zip(found["routing"], routing, strict=True):
            assert a_K == pytest.approx(a_NK[0].tolist())


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "nonsense", ""])
def test_an_image_is_known_by_how_it_begins_whatever_its_content_type(
    kind: str | None, url: str, picture: Picture
) -> None:
    """`curl --data-binary @photo.jpg` calls any body a form."""
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        answer = requests.post(f"{url}/v1/predict", picture(form=form), headers={"Content-Type": kind})

        assert answer.status_code == 200, (form, answer.text)


def test_a_form_holds_several_images_in_their_order(url: str, picture: Picture, predictor: Predictor) -> None:
    files = [picture(seed) for seed in range(5)]

    answer = requests.post(f"{url}/v1/predict", files=[("image", file) for file in files])

    found = answer.json()["images"]
    assert [one["class"] for one in found] == [
        prediction.label for prediction in predictor.predict([io.BytesIO(file) for file in files])
    ]
    assert all(len(one["top"]) == 3 and "routing" not in one for one in found)


def test_what_is_wrong_is_said_in_one_line(url: str, picture: Picture) -> None:
    good = picture()
    for status, said, words in (
        (422, "image 1: damaged, or not an image", {"data": b"no image", "headers": PNG}),
        (422, "image 2: damaged", {"files": [("image", good), ("image", good[:300])]}),
        (422, "no image", {"data": b"", "headers": PNG}),
        (422, "no image", {"files": [("image", good), ("image", b"")]}),
        (422, "must be files called image", {"files": {"picture": good}}),
        (422, "must be files called image", {"files": {"image": good}, "data": {"image": "text"}}),
        (415, "curl --data-binary @photo.jpg", {"data": b"a=b", "headers": {"Content-Type": "text/plain"}}),
        (415, "neither an image nor a form", {"data": {"image": "a"}}),
        (415, "neither an image nor a form", {"data": good[4:]}),
        (415, "neither an image nor a form", {"data": b""}),
        (400, "boundary", {"data": good, "headers": {"Content-Type": "multipart/form-data"}}),
        (400, "Too many files", {"files": [("image", good)] * 17}),
        (422, "tops: ", {"params": {"tops": "1"}, "data": good, "headers": PNG}),
        (422, "top: ", {"params": {"top": "0"}, "data": good, "headers": PNG}),
    ):
        answer = requests.post(f"{url}/v1/predict", **words)  # type: ignore[arg-type]

        assert answer.status_code == status, words
        assert list(answer.json()) == ["error"] and said in answer.json()["error"]
        assert "\n" not in answer.json()["error"] and "/" not in answer.json()["error"]
    assert requests.get(f"{url}/v1/predict").status_code == 405
    assert requests.get(f"{url}/../../etc/passwd").json() == {"error": "Not Found"}


def test_only_pictures_of_browsers_are_read_and_small_ones(serving: Serving, picture: Picture) -> None:
    flat = io.BytesIO()
    Image.new("L", (1001, 1000)).save(flat, "PNG")
    scans = b"\xff\xd8" + b"\xff\xda" * 101
    with serving(Limits(pixels=1_000_000)) as url:
        for file, said in (
            (picture(form="TIFF"), "not an image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
            (flat.getvalue(), "1001x1000 pixels, more than 1,000,000"),
            (scans, "more than 100 scans"),
        ):
            answer = requests.post(f"{url}/v1/predict", file, headers=PNG)
            assert answer.status_code == 422 and said in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(serving: Serving, picture: Picture) -> None:
    def dribble() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1000)

    with serving(Limits(body=50_000)) as url:
        for body in (bytes(50_001), dribble()):
            answer = requests.post(f"{url}/v1/predict", body, headers=PNG)
            assert answer.status_code == 413 and "more than 50000 bytes" in answer.json()["error"]
        assert requests.post(f"{url}/v1/predict", files={"image": bytes(50_000)}).status_code == 413
        assert requests.post(f"{url}/v1/predict", picture(), headers=PNG).status_code == 200


def talk(url: str, sent: bytes) -> bytes:
    """What comes back on a connection that sends this and no more, until the server closes it."""
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_who_is_slow_is_not_waited_for(serving: Serving) -> None:
    with serving(Limits(seconds=1)) as url:
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            body, header, nothing = pool.map(
                lambda sent: talk(url, sent),
                (
                    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nab",
                    b"GET /healthz HTTP/1.1\r\nHost: ",
                    b"",
                ),
            )

    assert time.monotonic() - began < 8
    assert body.startswith(b"HTTP/1.1 408") and b"more than 1 seconds" in body
    assert header == nothing == b""


def test_a_full_queue_is_said_at_once_and_with_when_to_come_back(
    serving: Serving, picture: Picture, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_all = threading.Event()
    refusals: list[int] = []

    def compute(images: Tensor) -> Tensor:
        assert refused_all.wait(20)
        return torch.full((len(images), 10), 0.1)

    def ask(_: int) -> requests.Response:
        answer = requests.post(f"{url}/v1/predict", picture(), headers=PNG)
        if answer.status_code == 503:
            refusals.append(1)
            if len(refusals) == 4:
                refused_all.set()
        return answer

    monkeypatch.setattr(predictor, "probabilities", compute)
    with serving(Limits(queue=2, max_batch=1)) as url, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
        figures = requests.get(f"{url}/metrics").text

    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [503] * 4
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1" and refused.json() == {"error": "the queue is full; try again later"}
    assert 'dynconv_answers_total{path="/v1/predict",status="503"} 4.0' in figures
    assert "dynconv_predictions_in_progress 0.0" in figures and "dynconv_batch_images_sum 2.0" in figures


def half_sent(url: str, count: int) -> list[socket.socket]:
    """Connections on which requests have begun whose bodies do not arrive."""
    address = urlsplit(url)
    found = []
    for _ in range(count):
        connection = socket.create_connection((str(address.hostname), address.port or 0), timeout=10)
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\nab"
        )
        found.append(connection)
    return found


def wait_for(url: str, line: str) -> None:
    """Until the metrics say so."""
    deadline = time.monotonic() + 20
    while line not in requests.get(f"{url}/metrics").text:
        assert time.monotonic() < deadline, line
        time.sleep(0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs 127.0.0.2; not tested: a second client's room")
def test_bodies_that_do_not_arrive_leave_room_for_other_clients(serving: Serving, picture: Picture) -> None:
    with serving(Limits(queue=24, seconds=60)) as url, contextlib.ExitStack() as open_ones:
        for connection in half_sent(url, 12):
            open_ones.enter_context(connection)
        wait_for(url, "dynconv_predictions_in_progress 12.0")

        same = requests.post(f"{url}/v1/predict", picture(), headers=PNG)
        other = requests.Session()
        other.mount("http://", FromAnotherAddress())
        answer = other.post(f"{url}/v1/predict", picture(), headers=PNG)
        other.close()

        assert same.status_code == 429 and same.headers["Retry-After"] == "1"
        assert "12 of your requests are still arriving" in same.json()["error"]
        assert answer.status_code == 200


class FromAnotherAddress(requests.adapters.HTTPAdapter):
    """Sends from 127.0.0.2, which on Linux is this machine, too."""

    def init_poolmanager(self, *words: object, **options: object) -> None:
        super().init_poolmanager(*words, source_address=("127.0.0.2", 0), **options)  # type: ignore[arg-type]


def test_each_client_has_half_of_the_queue_for_bodies_that_arrive() -> None:
    gate = Gate(20, lambda in_progress: None)

    with contextlib.ExitStack() as open_ones:
        for _ in range(10):
            open_ones.enter_context(gate.arriving("one"))
        with pytest.raises(HTTPException) as refused, gate.arriving("one"):
            pytest.fail("entered")
        with gate.arriving("two"):
            pass
    with gate.arriving("one"):  # they have arrived
        pass

    assert refused.value.status_code == 429


def test_what_takes_too_long_to_compute_is_given_up(
    serving: Serving, picture: Picture, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "probabilities", lambda images: time.sleep(1.5))
    with serving(Limits(seconds=1)) as url:
        answer = requests.post(f"{url}/v1/predict", picture(), headers=PNG)

    assert answer.status_code == 503 and "not done in 1 seconds" in answer.json()["error"]


def test_a_fault_of_ours_is_500_and_tells_the_log_not_the_client(
    serving: Serving,
    picture: Picture,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(images: Tensor) -> Tensor:
        raise RuntimeError("in /some/secret/place")

    monkeypatch.setattr(predictor, "probabilities", fail)
    with serving() as url:
        answer = requests.post(f"{url}/v1/predict", picture(), headers=PNG)
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert requests.get(f"{url}/readyz").status_code == 200
        assert 'status="500"} 1.0' in requests.get(f"{url}/metrics").text
    assert "/some/secret/place" in caplog.text


def test_a_key_guards_all_but_the_page_and_the_state(serving: Serving, picture: Picture) -> None:
    with serving(key="sesame") as url:
        for path in ("/v1/model", "/metrics"):
            assert requests.get(url + path).status_code == 401
            assert requests.get(url + path, headers={"Authorization": "Bearer sesam"}).status_code == 401
            assert requests.get(url + path, headers={"Authorization": "Bearer sesame"}).status_code == 200
        refused = requests.post(f"{url}/v1/predict", picture(), headers=PNG)
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/samples/heart.png"):
            assert requests.get(url + path).status_code == 200


def test_the_model_is_described(serving: Serving, predictor: Predictor) -> None:
    means = [torch.full((10, 3), 0.25), torch.full((10, 3), torch.nan)]
    with serving(Limits(images=7), means=means) as url:
        about = requests.get(f"{url}/v1/model").json()

    assert about["classes"] == list(shapes.CLASSES) == about["samples"]
    assert (about["name"], about["data"], about["blocks"], about["experts"]) == ("tiny", "shapes", 2, [3, 3])
    assert about["limits"] == {"body": 8_000_000, "images": 7, "pixels": 25_000_000}
    assert about["class_routing"] == [[[0.25] * 3] * 10, [[None] * 3] * 10]


def test_pages_come_from_here_alone(url: str) -> None:
    for path in ("/", "/docs", "/page.css", "/page.js", "/routing.js", "/icon.svg"):
        answer = requests.get(url + path)
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in answer.headers and "server" not in answer.headers
        outside = re.findall(r"(?:https?:)?//[\w.-]+", answer.text.replace("http://www.w3.org/2000/svg", ""))
        assert [one for one in outside if one not in ("http://HOST", "//")] == []
        assert not re.search(r"<script>|<style|style=| on\w+=", answer.text)
    docs = requests.get(f"{url}/docs").text
    assert all(path in docs for path in requests.get(f"{url}/openapi.json").json()["paths"])
