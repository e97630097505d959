"""Memory over many trainings, loads of weights and requests -> benchmarks/soak.json. Ends with 1 where it grows.

    python benchmarks/soak.py

One process trains 200 small networks, another loads the packaged weights 1,000 times, and a server answers 100,000
requests. Resident memory is read a hundred times in each; from the first quarter to the last it may grow by
`TOLERANCE`: what is allocated once, and what an allocator keeps, have settled by then.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import logging
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from dynconv import Predictor, api
from dynconv.artifacts.environment import environment
from dynconv.data import shapes

OUTPUT = Path(__file__).with_name("soak.json")
READINGS = 100
CLIENTS = 8
TOLERANCE = 0.03
"""Of the memory in the first quarter."""

TINY = {
    "epochs": 1, "image_sizes": [16], "batch_size": 1000, "micro_batch": 1000, "tta": False,
    "model": {"widths": [8, 8], "pools": [4, 2]},
}  # fmt: skip


def resident(process: int | str = "self") -> int:
    """Bytes of memory that a process has in use now."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def trainings(count: int, told: Connection) -> None:
    """Trains small networks."""
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            api.train("quick", data="shapes", run=Path(folder, str(number)), seed=number, **TINY)
            told.send(resident())
    told.send(None)


def loads(count: int, told: Connection) -> None:
    """Loads the packaged weights, and classifies an image with each network."""
    image = shapes.generate(0, train_images=10, test_images=1).test.images
    for _ in range(count):
        Predictor.load("standard", "cpu").probabilities(image)
        told.send(resident())
    told.send(None)


def in_a_process(work: Callable[[int, Connection], None], count: int) -> list[int]:
    """The memory of a process of its own after each of the `count` repetitions."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(count, theirs))
    process.start()
    theirs.close()
    found = list(iter(ours.recv, None))
    process.join()
    return found


def requests(count: int) -> list[int]:
    """The memory of a server, over `count` requests of `CLIENTS` clients."""
    (image,) = shapes.generate(0, train_images=10, test_images=1).test.images
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    words = [sys.executable, "-m", "dynconv", "serve", "standard", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        address = urlsplit(server.stdout.readline().strip())
        answered, found = [0] * CLIENTS, []

        def client(number: int) -> None:
            connection = http.client.HTTPConnection(str(address.hostname), address.port)
            for _ in range(count // CLIENTS):
                connection.request("POST", "/v1/predict", file.getvalue(), {"Content-Type": "image/png"})
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                answered[number] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if sum(answered) >= len(found) * count / READINGS:
                found.append(resident(server.pid))
            time.sleep(0.01)
        server.terminate()
        assert sum(answered) == count // CLIENTS * CLIENTS
    return found


def judged(memory: list[int], count: int, seconds: float) -> dict[str, Any]:
    """What is reported of one kind of work."""
    quarter = len(memory) // 4
    first, last = statistics.median(memory[:quarter]), statistics.median(memory[-quarter:])
    return {
        "repetitions": count,
        "seconds": round(seconds),
        "first_quarter_bytes": round(first),
        "last_quarter_bytes": round(last),
        "largest_bytes": max(memory),
        "growth": last / first - 1,
    }


def main() -> None:
    """Does all three, one after another, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the repetitions, 0.04..1; below 1 writes nothing")
    share = parser.parse_args().share
    about = environment("shapes")
    work: dict[str, tuple[int, Callable[[int], list[int]]]] = {
        "trainings": (200, lambda count: in_a_process(trainings, count)),
        "loads of weights": (1000, lambda count: in_a_process(loads, count)),
        "requests": (100_000, requests),
    }
    report: dict[str, Any] = {}
    for name, (whole, run) in work.items():
        count, began = round(share * whole), time.monotonic()
        report[name] = judged(run(count), count, time.monotonic() - began)
        print(name, report[name], flush=True)
    if share == 1:
        machine = {"processor": about.processor, "cores": about.cores, "git_commit": about.git_commit}
        OUTPUT.write_text(json.dumps({"machine": machine, **report}, indent=2) + "\n", encoding="utf-8")
    growing = [name for name, found in report.items() if found["growth"] > TOLERANCE]
    if growing:
        sys.exit(f"memory grows by more than {TOLERANCE:.0%}: {', '.join(growing)}")


if __name__ == "__main__":
    main()
