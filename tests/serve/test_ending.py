"""What happens to connections when the server ends."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse

import pytest
import requests

from dynconv.inference.predictor import Predictor
from dynconv.serve import connection, server
from dynconv.serve.app import create_app
from dynconv.serve.current import Current
from dynconv.serve.keys import Keys
from dynconv.serve.limits import Limits
from dynconv.serve.model import Served

HEADERS = {"Content-Type": "image/png"}


@contextmanager
def serving(predictor: Predictor) -> Iterator[tuple[str, Callable[[], None]]]:
    """Address and port of a server in a thread, and what tells it to end: it returns when nothing more is accepted."""
    limits = Limits(seconds=10_000)
    app, _ = create_app(Current(Served("tiny", predictor, [])), limits, Keys())
    started = threading.Event()
    running = server._Server(server.configure(app, limits), started.set)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=running.run, args=([listener],))

        def end() -> None:
            running.should_exit = True
            while listener.fileno() != -1:
                time.sleep(0.01)

        thread.start()
        try:
            started.wait()
            yield f"127.0.0.1:{port}", end
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture
def long_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is closed for being idle."""
    monkeypatch.setattr(server, "_IDLE_SECONDS", 10_000)


@pytest.mark.parametrize("sent", [0, 20], ids=["nothing", "a part of its header"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.usefixtures("long_idle")
def test_a_request_on_its_way_is_answered_and_told_that_it_is_the_last(
    predictor: Predictor, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, sent: int, kept: bool
) -> None:
    monkeypatch.setattr(connection, "_LAST_SECONDS", 1000)
    body = picture()
    length = f"Content-Length: {len(body)}\r\n\r\n"
    request = f"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n{length}".encode() + body
    with serving(predictor) as (place, end), closing(HTTPConnection(place, timeout=300)) as client:
        client.connect()
        if kept:
            client.request("POST", "/v1/predict", body, HEADERS)
            first = client.getresponse()
            assert first.read() and first.headers["Connection"] is None
        client.sock.sendall(request[:sent])
        assert requests.get(f"http://{place}/healthz", headers={"Connection": "close"}).ok  # accepted after this client
        end()
        client.sock.sendall(request[sent:])
        with HTTPResponse(client.sock) as answer:
            answer.begin()
            assert answer.status == 200 and answer.headers["Connection"] == "close"
            assert len(json.load(answer)["images"]) == 1
        assert client.sock.recv(1) == b"", "closed"


@pytest.mark.usefixtures("long_idle")
def test_a_connection_without_a_request_is_closed_soon(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LAST_SECONDS", 0.05)
    with serving(predictor) as (place, end), closing(HTTPConnection(place, timeout=300)) as client:
        client.connect()
        assert requests.get(f"http://{place}/healthz", headers={"Connection": "close"}).ok
        end()
        assert client.sock.recv(1) == b""
