"""A small network, and servers over it: in a thread of this process, or as the command."""

import contextlib
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import uvicorn
from PIL import Image

from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data import shapes
from dynconv.inference.predictor import Predictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.serve.app import create_app
from dynconv.serve.current import Current
from dynconv.serve.keys import Keys
from dynconv.serve.limits import Limits
from dynconv.serve.model import Served
from dynconv.serve.server import configure

MODEL = ModelConfig(widths=(6, 8), pools=(2,), experts=3, whiten=False, norm="none", nonlinearity="relu")

USUAL = Limits()


@pytest.fixture(scope="session")
def weights() -> Weights:
    torch.manual_seed(0)
    net = Net(MODEL, len(shapes.CLASSES))
    net.input.fit(torch.rand(20, 3, 32, 32))
    for block in net.backbone:
        torch.nn.init.normal_(block.conv.router.linear.weight, std=3)
    torch.nn.init.normal_(net.head.linear.weight)
    return Weights(net.state_dict(), MODEL, shapes.CLASSES, "shapes")


@pytest.fixture(scope="session")
def predictor(weights: Weights) -> Predictor:
    net = Net(MODEL, len(shapes.CLASSES))
    net.load_state_dict(weights.state)
    return Predictor(net, weights, torch.device("cpu"), "fp32")


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """An image file of noise."""

    def make(seed: int = 0, form: str = "PNG", width: int = 40, height: int = 36) -> bytes:
        pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
        file = io.BytesIO()
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(file, form)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def serving(predictor: Predictor) -> Callable[..., contextlib.AbstractContextManager[str]]:
    """`with serving(...) as url`: a server on a free port, in a thread."""

    @contextlib.contextmanager
    def serve(limits: Limits = USUAL, key: str | None = None, means: list[torch.Tensor] | None = None) -> Iterator[str]:
        current = Current(Served("tiny", predictor, means or []))
        app, _ = create_app(current, limits, Keys.of(key) if key else Keys())
        server = uvicorn.Server(configure(app, limits))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive()
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return serve


@pytest.fixture(scope="module")
def url(serving: Callable[..., contextlib.AbstractContextManager[str]]) -> Iterator[str]:
    """A server with the usual limits, without a key or class means."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def command(
    weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """`dynconv serve` with these words: the process, and its URL."""
    folder = tmp_path_factory.mktemp("served")
    file = folder / "tiny.safetensors"
    save_weights(file, weights)
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dynconv", "serve", str(file), "--port", "0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()
