"""The command: what it prints, how it ends, and how it is started wrongly."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from dynconv.cli.main import main

Start = Callable[..., tuple[subprocess.Popen[str], str]]


def test_a_stop_in_the_middle_of_a_load_loses_nothing(command: Start, picture: Callable[..., bytes]) -> None:
    process, url = command()
    body, answered, cut = picture(), list[int](), list[Exception]()

    def load() -> None:
        with requests.Session() as session:
            while not cut:
                try:
                    answer = session.post(f"{url}/v1/predict", body, headers={"Content-Type": "image/png"})
                except requests.ConnectionError as error:
                    cut.append(error)
                    return
                assert len(answer.json()["images"][0]["top"]) == 3
                answered.append(answer.status_code)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(answered) < 100:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=30)
    for thread in threads:
        thread.join()

    assert process.returncode == 0 and "Traceback" not in said
    assert set(answered) == {200}
    assert f"stopped; {len(answered)} requests were answered" in said


def test_wrong_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, said in {
            ("--port", port): f"port {port} of 127.0.0.1: {os.strerror(errno.EADDRINUSE)}; choose another --port",
            ("--host", "no.such.host.invalid"): "host: 'no.such.host.invalid' is not an address",
            ("--host", "192.168..1"): "host: '192.168..1' is not an address of this machine (not a host name)",
            ("--port", "99999"): "port",
            ("--max-batch", "0"): "max_batch: must be",
            (str(tmp_path / "none"), "--port", "0"): "none",
        }.items():
            assert main(["serve", *words]) == 2
            captured = capsys.readouterr()
            assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    monkeypatch.setenv("DYNCONV_API_KEY", "open sesame")
    assert main(["serve", "--port", "0"]) == 2
    assert "DYNCONV_API_KEY: must consist of ASCII" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from dynconv.cli.main import main; sys.exit(main(['serve']))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == f"dynconv: error: serve: the package {missing} is missing; pip install 'dynconv[serve]'\n"
