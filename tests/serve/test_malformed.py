"""Requests whose headers and bodies are made up, over real connections: none is answered 500."""

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
TYPES = (b"multipart/form-data", b"Multipart/Form-Data", b"multipart/form-data, text/plain", b"image/png", b"")
CHARSETS = (
    b"undefined", b"utf-16", b"utf-7", b"idna", b"punycode", b"hex", b"rot13", b"zip", b"unicode_escape", b"oem",
    b"mbcs", b"raw_unicode_escape", b"\xff", b"utf-8; charset=undefined", b"'", b"utf-8''x",
)  # fmt: skip
ENCODINGS = (b"gzip", b"chunked", b"identity", b"chunked, chunked", b"gzip, chunked", b"\xff")
CASES = int(os.environ.get("DYNCONV_FUZZ_CASES", "400"))
"""Number of requests with odd bodies; `make fuzz` sets it."""
odd = st.binary(max_size=12).filter(lambda text: not re.search(rb"[\r\n\0]", text))


@st.composite
def content_types(draw: st.DrawFn) -> bytes:
    """A type with any of its usual parameters, each of them usual, odd or missing."""
    parameters = [draw(st.sampled_from(TYPES) | odd)]
    for name, values in ((b"boundary", (b"x", b'"x"', b"", b"x" * 300)), (b"charset", CHARSETS)):
        parameters += [name + b"=" + value for value in draw(st.lists(st.sampled_from(values) | odd, max_size=2))]
    parameters += draw(st.lists(odd, max_size=1))
    return draw(st.sampled_from([b"; ", b";"])).join(parameters)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Pieces of forms, in any order, with bytes between them."""
    pieces = st.sampled_from(
        [PART, PART.replace(b"; filename=", b"; filename*="), b"\r\n--x--\r\n", b"--x\r\n", b"\r\n"]
    )
    named = odd.map(lambda name: b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\nvalue')
    return b"".join(draw(st.lists(pieces | named | st.binary(max_size=20), max_size=6)))


@pytest.fixture(scope="module")
def url(command: Callable[..., tuple[subprocess.Popen[str], str]]) -> Iterator[str]:
    """A server in a process of its own, which at the end must not have said anything of an error or of bad forms."""
    process, url = command("--timeout", "1", "--max-body-mb", "0.1")
    yield url
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said and "boundary" not in said


def status(url: str, sent: bytes) -> int:
    """What the server answers to these bytes; 0 if it closes the connection without a word."""
    address, received = urlsplit(url), b""
    place = (str(address.hostname), address.port or 0)
    with contextlib.suppress(ConnectionError), socket.create_connection(place, timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            received += part
    final = re.sub(rb"^(HTTP/1\.1 100 [^\r]*\r\n\r\n)+", b"", received)  # "go on" is not the answer yet
    return int(final.split()[1]) if final else 0


@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=content_types(),
    body=bodies(),
    headers=st.lists(odd, max_size=2),
    encoding=st.none() | st.sampled_from(ENCODINGS),
)
@example(
    kind=b"multipart/form-data; boundary=x; charset=undefined", body=PART + b"a\r\n--x--\r\n", headers=[], encoding=None
)
@example(kind=b"multipart/form-data; charset=undefined", body=b"a", headers=[], encoding=None)
@example(kind=b"multipart/form-data; boundary=\xff", body=b"--\xff", headers=[], encoding=None)
def test_no_header_and_no_body_is_answered_500(
    url: str, kind: bytes, body: bytes, headers: list[bytes], encoding: bytes | None
) -> None:
    framing = b"Content-Length: %d" % len(body)
    if encoding is not None:
        framing = b"Transfer-Encoding: " + encoding
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    lines = [b"POST /v1/predict HTTP/1.1", b"Host: x", b"Content-Type: " + kind, framing]
    lines += [b"X-Odd: " + value for value in headers]

    assert status(url, b"\r\n".join([*lines, b"", body])) in (0, 200, 400, 408, 413, 415, 422, 501)


@settings(max_examples=CASES // 2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from([b"Authorization", b"Content-Length", b"Expect", b"Host", b"Connection", b"Content-Encoding"]),
    value=odd | st.sampled_from([b"9" * 5000, b"-1", b"1e3", b"Bearer ", b"Bearer \xff", b"100-continue", b"upgrade"]),
    path=st.sampled_from([b"/v1/predict", b"/v1/model", b"/metrics", b"/", b"/samples/%FF.png", b"/%ED%A0%80"]),
    query=st.sampled_from(
        [b"", b"?top=%ED%A0%80", b"?%FF=1", b"?top=" + b"9" * 5000, b"?routing=%00", b"?top=1&top=2"]
    ),
)
def test_no_path_and_no_other_header_is_answered_500(
    url: str, name: bytes, value: bytes, path: bytes, query: bytes
) -> None:
    for method in (b"GET", b"POST", b"ODD"):
        sent = b"%s %s%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\n\r\n" % (method, path, query, name, value)

        assert status(url, sent) in (0, 200, 400, 401, 404, 405, 408, 413, 415, 422)


def test_a_charset_that_cannot_decode_is_400(url: str) -> None:
    for charset in ("undefined", "nonsense", "utf-8"):
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        answer = requests.post(f"{url}/v1/predict", PART + b"a\r\n--x--\r\n", headers={"Content-Type": kind})

        assert answer.status_code == (400 if charset == "undefined" else 422), answer.text
        assert "\n" not in answer.json()["error"]
