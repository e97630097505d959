"""Requests per second, latency and memory of `dynconv serve`, with batching and without."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from PIL import Image

from dynconv.data import shapes
from dynconv.errors import DynconvError

CONCURRENCY = (1, 8, 64)
SECONDS = 2.0
"""Length of each measurement."""
HANDLINGS = {"batches": (), "one at a time": ("--max-batch", "1", "--max-delay-ms", "0")}


def measure_serve(model: Path, rounds: int) -> list[dict[str, Any]]:
    """Loads a server with and without batching, in turns, from several numbers of clients.

    Each client sends a PNG of 32x32 pixels over the loopback interface, waits for the answer, and sends the next.
    Clients run in this process, on the same cores as the server.

    Returns:
        One record per handling and number of clients: requests per second, the median over the rounds; the 50th and
        99th percentile of the latency in ms, over all requests; and the server's memory in MB after the last of them,
        None where the system does not say.

    Raises:
        DynconvError: a server does not start, or answers with a status other than 200.
    """
    request = _request()
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(_server(model, words)) for name, words in HANDLINGS.items()}
        taken: dict[tuple[str, int], list[list[float]]] = {(name, n): [] for n in CONCURRENCY for name in HANDLINGS}
        memory: dict[tuple[str, int], float | None] = {}
        for turn in range(rounds + 1):
            for (name, clients), latencies in taken.items():
                found = asyncio.run(_load(urls[name], request, clients, SECONDS if turn else SECONDS / 4))
                if turn:  # the first round warms up
                    latencies.append(found)
                memory[name, clients] = _memory(urls[name])
    return [
        {
            "handling": name,
            "clients": clients,
            "requests": sum(map(len, latencies)),
            "requests_per_second": statistics.median(len(one) / SECONDS for one in latencies),
            **{f"p{percent}_ms": 1000 * _percentile(latencies, percent) for percent in (50, 99)},
            "memory_mb": memory[name, clients],
        }
        for (name, clients), latencies in taken.items()
    ]


def _percentile(latencies: list[list[float]], percent: int) -> float:
    ordered = sorted(value for one in latencies for value in one)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def _memory(url: str) -> float | None:
    """The resident memory of a server in MB, as its metrics say."""
    text = requests.get(f"{url}/metrics", timeout=60).text
    found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    return float(found[1]) / 1e6 if found else None


def _request() -> bytes:
    (image,) = shapes.generate(0, train_images=10, test_images=1).test.images
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    body = file.getvalue()
    lines = ("POST /v1/predict HTTP/1.1", "Host: localhost", "Content-Type: image/png", f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def _server(model: Path, words: tuple[str, ...]) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dynconv", "serve", str(model), "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            raise DynconvError(process.communicate()[1].strip().splitlines()[-1].removeprefix("dynconv: error: "))
        yield url
    finally:
        process.terminate()
        process.communicate()


async def _load(url: str, request: bytes, clients: int, seconds: float) -> list[float]:
    """Latency in seconds of every request, from `clients` that send one after another without a pause."""
    latencies: list[float] = []
    address, end = urlsplit(url), time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if not head.startswith(b"HTTP/1.1 200 ") or not length:
                raise DynconvError(f"the server answered {head.splitlines()[0].decode()}")
            await reader.readexactly(int(length[1]))
            latencies.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies
