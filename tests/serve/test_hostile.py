"""Two hundred uploads that mean harm: none is answered 500, none is waited for, and the memory stays as it was."""

import contextlib
import io
import random
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

Picture = Callable[..., bytes]
Start = Callable[..., tuple[subprocess.Popen[str], str]]
BOUNDARY = "multipart/form-data; boundary=x"
FLAT_GROWTH_MB = 48


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def damaged(picture: Picture, rng: random.Random) -> Iterator[bytes]:
    """100: cut off, and with bytes changed."""
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = picture(3, form, 60, 60)
        for _ in range(10):
            yield whole[: rng.randrange(1, len(whole))]
        for _ in range(10):
            changed = bytearray(whole)
            for _ in range(20):
                changed[rng.randrange(2, len(changed))] = rng.randrange(256)
            yield bytes(changed)


def bombs() -> Iterator[bytes]:
    """14: small files that say or hold very much."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    for width, height in ((65535, 65535), (2**31 - 1, 1), (0, 0), (5001, 5000), (100_000, 249)):
        yield png(width, height, chunk(b"IDAT", zeros))
    yield png(9, 9, chunk(b"zTXt", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(252))))
    yield png(9, 9, chunk(b"iCCP", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(252))))
    yield png(9, 9, chunk(b"IDAT", zeros))
    yield png(9, 9, *[chunk(b"tEXt", b"a\0b")] * 5000)
    yield b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(20)
    yield b"BM" + struct.pack("<IHHIIiiHHIIiiII", 999, 0, 0, 54, 40, 2**30, -(2**30), 1, 24, 0, 0, 0, 0, 0, 0)
    yield b"RIFF\xff\xff\xff\x7fWEBPVP8X\n\0\0\0\0\0\0\0" + b"\xff" * 6
    yield b"\xff\xd8" + b"\xff\xda\x00\x02" * 20_000
    large = io.BytesIO()
    Image.new("RGBA", (5000, 4999)).save(large, "PNG")  # allowed: it has to be decoded
    yield large.getvalue()


def strangers(picture: Picture, rng: random.Random) -> Iterator[bytes]:
    """50: files of other kinds, and of two kinds at once."""
    good = picture()
    for head in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file", b"%PDF-1.7\n",
        b"PK\3\4", b"MZ", b"\x7fELF",
        b"#!/bin/sh\n", b"<?php system($_GET[0]); ?>", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        b"II*\0\x08\0\0\0", b"8BPS\0\1", b"\0\0\1\0",
        b"\x76\x2f\x31\x01", b"DDS ", b"\x00\x00\x00\x20ftypavif", b"FWS", b"\xd7\xcd\xc6\x9a", b"P6 99999 99999 255\n",
        b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'https://127.0.0.1/'", b"{}",
    ):  # fmt: skip
        yield head
        yield head + good
    for tail in (b"PK\3\4" + bytes(99), b"<script>alert(1)</script>", good, bytes(100_000), b"<?php ?>"):
        yield good + tail
    for size in (1, 10, 100, 1000, 100_000):
        yield rng.randbytes(size)


def forms(good: bytes) -> Iterator[tuple[str, bytes]]:
    """22: forms that are none, or strange."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n'
    for body in (
        b"", b"--x", b"--x--", b"--x\r\n\r\n", b"--y\r\n\r\n--y--", head % b"a", head % b"a" + good, (head % b"a")[:-4],
        b"--x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: " + b"a" * 100_000 + b"\r\n\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", (head % b"a" + b"\r\n") * 10_000 + b"--x--",
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + bytes(200_000) + b"\r\n--x--",
        b"\r\n" * 100_000, b"-" * 100_000, b"--x\r\n" * 50_000, bytes(100_000),
    ):  # fmt: skip
        yield BOUNDARY, body
    for name in (b"../../../../etc/passwd", b"a" * 10_000, "\u202e\U0001f4a5".encode(), b"\xff\xfe"):
        yield BOUNDARY, head % name + good + b"\r\n--x--\r\n"
    yield "multipart/form-data; boundary=" + "x" * 5000, good


def headers() -> Iterator[bytes]:
    """19: what stands before the body, and bodies that are late."""
    post = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    yield post + b"A: " + b"a" * 200_000 + b"\r\n\r\n"
    yield post + b"A: a\r\n" * 50_000 + b"\r\n"
    yield b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield post + b"Content-Length: -1\r\n\r\n"
    yield post + b"Content-Length: 99999999999999999999\r\n\r\n"
    yield post + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"
    yield post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
    yield post + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"
    yield post + b"Transfer-Encoding: gzip\r\n\r\n"
    yield post + b"Content-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for sent in (b"", b"a", bytes(1000)):
        yield post + b"Content-Length: 9999\r\n\r\n" + sent
    yield post + b"Expect: 100-continue\r\nContent-Length: 9999\r\n\r\n"
    yield post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"
    yield post


def talk(url: str, sent: bytes) -> int:
    """The status that comes back; 0 where the server only closes."""
    address, received = urlsplit(url), b""
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=20) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    received = received.removeprefix(b"HTTP/1.1 100 \r\n\r\n").removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return int(received.split()[1]) if received else 0


def post(url: str, kind: str, body: bytes) -> requests.Response:
    """Tried again if the connection breaks: a server that refuses a body need not wait for the rest of it."""
    for _ in range(4):
        with contextlib.suppress(requests.ConnectionError):
            return requests.post(url, body, headers={"Content-Type": kind})
    return requests.post(url, body, headers={"Content-Type": kind})


def resident_mb(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process from /proc")
def test_two_hundred_hostile_uploads(command: Start, picture: Picture) -> None:
    process, url = command("--timeout", "1")
    rng, good, predict = random.Random(0), picture(), f"{url}/v1/predict"
    uploads = [
        ("image/png", body) for part in (damaged(picture, rng), bombs(), strangers(picture, rng)) for body in part
    ]
    uploads += forms(good)
    raw = list(headers())
    assert len(uploads) + len(raw) >= 200

    def attack() -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            late = [pool.submit(talk, url, sent) for sent in raw]
            said = set()
            for kind, body in uploads:
                answer = post(predict, kind, body)
                said.add(answer.status_code)
                assert answer.status_code in (200, 400, 408, 413, 415, 422, 503), (kind, body[:80])
                assert "image 1" in answer.text or "/" not in answer.json().get("error", ""), answer.text
            return said | {one.result() for one in late}

    # The memory for decoding a large image may be kept, once for each thread that decodes.
    *_, large = bombs()
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: requests.post(predict, large, headers={"Content-Type": "image/png"}), range(4)))
    said = attack()
    before = resident_mb(process)
    said |= attack()

    assert resident_mb(process) - before < FLAT_GROWTH_MB
    assert said <= {0, 200, 400, 404, 408, 413, 422, 501, 503} and {200, 400, 408, 422} <= said
    assert requests.post(predict, good, headers={"Content-Type": "image/png"}).status_code == 200
    assert 'status="500"' not in requests.get(f"{url}/metrics").text
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in log
