"""What operators need: keys, a rate limit, a log that machines read, new weights without a stop, several workers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fastapi import HTTPException

from dynconv.artifacts.weights import Weights, save_weights
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.serve.keys import Keys
from dynconv.serve.limits import Limits
from dynconv.serve.rate import Rate

Picture = Callable[..., bytes]
Serving = Callable[..., AbstractContextManager[str]]
Start = Callable[..., tuple[subprocess.Popen[str], str]]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers need Linux; not tested: workers")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------- keys


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys_are_known_by_their_digests() -> None:
    both = Keys.from_environment({"DYNCONV_API_KEY_SHA256": f"{digest('old')}, {digest('new').upper()}"})

    assert both and both.admit("old") and both.admit("new") and not both.admit("") and not both.admit(digest("old"))
    assert Keys.from_environment({"DYNCONV_API_KEY": "plain"}).admit("plain")
    assert not Keys.from_environment({"DYNCONV_API_KEY": "", "DYNCONV_API_KEY_SHA256": ""})
    assert "plain" not in repr(vars(Keys.of("plain")))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DYNCONV_API_KEY_SHA256": "sesame"}, "DYNCONV_API_KEY_SHA256: must be SHA-256 digests"),
        ({"DYNCONV_API_KEY_SHA256": digest("a") + ","}, "separated by commas"),
        ({"DYNCONV_API_KEY": "a", "DYNCONV_API_KEY_SHA256": digest("a")}, "not both"),
        ({"DYNCONV_API_KEY": "ä"}, "must consist of ASCII"),
    ],
)
def test_keys_that_are_none_are_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(DynconvError, match=said):
        Keys.from_environment(environment)


# ------------------------------------------------------------------------------------------------------------- rate


def test_a_client_may_send_so_many_requests_per_second_and_twice_as_many_after_a_pause() -> None:
    now, refusals = 0.0, list[object]()
    rate = Rate(2, lambda: now)

    def admitted(client: str) -> int:
        for count in range(100):
            try:
                rate.admit(client)
            except HTTPException as refused:
                refusals.append((refused.status_code, refused.headers))
                return count
        return 100

    assert [admitted("10.0.0.1"), admitted("10.0.0.1"), admitted("10.0.0.2")] == [4, 0, 4]
    now = 1.0
    assert admitted("10.0.0.1") == 2
    now = 100.0
    assert admitted("10.0.0.1") == 4
    assert [admitted("2001:db8::1"), admitted("2001:db8::2"), admitted("2001:db8:0:1::1")] == [4, 0, 4]
    assert refusals and all(refusal == (429, {"Retry-After": "1"}) for refusal in refusals)
    for client in range(30_000):
        rate.admit(f"10.1.{client // 256}.{client % 256}")
    assert len(rate._buckets) <= 10_001


def test_requests_above_the_rate_get_429_whether_their_key_is_right_or_not(serving: Serving, picture: Picture) -> None:
    with serving(Limits(rate=0.5), key="sesame") as url:
        wrong = requests.get(f"{url}/v1/model", headers={"Authorization": "Bearer sesam"})
        right = requests.post(f"{url}/v1/predict", picture(), headers={"Authorization": "Bearer sesame"})
        health = requests.get(f"{url}/healthz")

    assert (wrong.status_code, right.status_code, health.status_code) == (401, 429, 200)
    assert right.json() == {"error": "more than 0.5 requests per second; try again later"}
    assert right.headers["Retry-After"] == "2"


# -------------------------------------------------------------------------------------------------------------- log


def test_each_answer_has_an_id_and_a_line_in_the_json_log(command: Start, picture: Picture) -> None:
    process, url = command("--log", "json")
    kind = {"Content-Type": "image/png"}
    given = requests.post(f"{url}/v1/predict?top=1", picture(), headers=kind | {"X-Request-ID": "shop-17"})
    made = requests.get(f"{url}/no/such/path", headers={"X-Request-ID": "a\tb"})
    requests.get(f"{url}/healthz")
    process.terminate()
    _, said = process.communicate(timeout=300)

    lines = [json.loads(line) for line in said.splitlines()]
    answers = [line for line in lines if line["message"] == "answer"]
    assert given.headers["X-Request-ID"] == "shop-17" == answers[0]["request_id"]
    assert made.headers["X-Request-ID"] == answers[1]["request_id"] and len(answers[1]["request_id"]) == 32
    assert [(line["method"], line["path"], line["status"]) for line in answers] == [
        ("POST", "/v1/predict", 200), ("GET", "/no/such/path", 404),
    ]  # fmt: skip
    assert answers[0]["client"] == "127.0.0.1" and answers[0]["ms"] > 0 and answers[0]["time"].endswith("+00:00")
    assert lines[-1]["message"].startswith("stopped; 3 requests")


def test_the_log_for_people_has_no_line_for_each_answer(command: Start, picture: Picture) -> None:
    process, url = command()
    requests.post(f"{url}/v1/predict", picture(), headers={"Content-Type": "image/png"})
    process.terminate()

    assert "answer\n" not in process.communicate(timeout=300)[1]


def test_a_traceback_has_the_id_of_its_request() -> None:
    code = """
import logging
from dynconv.serve import logs
logs.log_as_json()
logs.request_id.set("one")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("uvicorn.error").exception("failed")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr

    (line,) = map(json.loads, said.splitlines())
    assert (line["level"], line["request_id"]) == ("error", "one") and "ZeroDivisionError" in line["traceback"]


# ----------------------------------------------------------------------------------------------------------- reload


@pytest.fixture
def file(weights: Weights, tmp_path: Path) -> Path:
    save_weights(tmp_path / "net.safetensors", weights)
    return tmp_path / "net.safetensors"


@pytest.fixture
def renamed(weights: Weights) -> Weights:
    return replace(weights, classes=tuple(f"new {name}" for name in weights.classes))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP; not tested: loading again")
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=LINUX)])
def test_a_hang_up_loads_the_weights_again_and_no_request_fails(
    workers: str, file: Path, renamed: Weights, picture: Picture
) -> None:
    words = [sys.executable, "-m", "dynconv", "serve", str(file), "--port", "0", "--workers", workers]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=file.parent
    )
    assert process.stdout
    url = process.stdout.readline().strip()
    found: list[tuple[int, str]] = []

    def ask() -> str:
        answer = requests.post(f"{url}/v1/predict", picture(), headers={"Content-Type": "image/png"})
        found.append((answer.status_code, answer.json()["images"][0]["class"]))
        return found[-1][1]

    try:
        assert not ask().startswith("new")
        file.write_bytes(b"damaged")
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert not ask().startswith("new")
        save_weights(file, renamed)
        process.send_signal(signal.SIGHUP)
        with ThreadPoolExecutor(4) as pool:
            until(lambda: all(one.startswith("new") for one in pool.map(lambda _: ask(), range(8))))
        about = requests.get(f"{url}/v1/model").json()
    finally:
        process.terminate()
        said = process.communicate(timeout=300)[1]
    assert {status for status, _ in found} == {200} and process.returncode == 0
    assert about["classes"][0].startswith("new ") and about["loaded"].endswith("Z")
    assert "were not loaded again" in said and "Traceback" not in said


# ---------------------------------------------------------------------------------------------------------- workers


def children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@LINUX
def test_workers_answer_add_up_their_metrics_and_are_replaced(command: Start, picture: Picture) -> None:
    process, url = command("--workers", "2")
    before = children(process.pid)

    def ask(_: int = 0) -> int:
        return requests.post(
            f"{url}/v1/predict?routing=true", picture(), headers={"Content-Type": "image/png"}
        ).status_code

    def figures() -> str:
        return requests.get(f"{url}/metrics").text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
    # An answer is counted once it has been sent, so the last ones may be on their way still.
    until(lambda: 'dynconv_answers_total{path="/v1/predict",status="200"} 40.0' in figures())
    assert "dynconv_predictions_in_progress 0.0" in figures()
    assert 'dynconv_answer_seconds_bucket{le="+Inf",path="/v1/predict"} 40.0' in figures()

    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(children(process.pid)) - {before[0]}) == 2)
    assert ask() == 200
    process.terminate()
    said = process.communicate(timeout=300)[1]

    assert process.returncode == 0 and "1 of 2 workers ended unexpectedly" in said and "Traceback" not in said
    assert not any(Path(f"/proc/{one}").exists() for one in before)


@LINUX
def test_workers_end_with_their_parent(command: Start) -> None:
    process, _ = command("--workers", "2")
    workers = children(process.pid)

    process.kill()

    until(lambda: not any(running(one) for one in workers))


def running(process: int) -> bool:
    """Whether it exists and is no zombie that its parent, which may be anyone, has not taken note of."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_onnxruntime_goes_with_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    from dynconv.cli.main import main

    assert main(["serve", "--backend", "onnxruntime", "--workers", "2"]) == 2
    assert "workers: onnxruntime cannot share its weights" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ onnxruntime


def test_onnxruntime_gives_the_same_classes(file: Path, command: Start, picture: Picture) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed; not tested: serving with it")
    process, url = command("--backend", "onnxruntime")
    answer = requests.post(f"{url}/v1/predict?routing=true", picture(4), headers={"Content-Type": "image/png"})
    said = "" if answer.ok else process.communicate(timeout=300)[1]

    assert answer.status_code == 200, said
    (image,) = answer.json()["images"]
    path = file.with_name("image.png")
    path.write_bytes(picture(4))
    expected = Predictor.load(file, "cpu").predict(path)
    assert [one["class"] for one in image["top"]] == [name for name, _ in expected.top]
    assert [one["probability"] for one in image["top"]] == pytest.approx([value for _, value in expected.top], abs=1e-3)
    assert len(image["routing"]) == 2


def test_the_description_has_an_example_of_every_answer(url: str) -> None:
    described = requests.get(f"{url}/openapi.json").json()
    responses = described["paths"]["/v1/predict"]["post"]["responses"]

    for status, response in responses.items():
        content = response["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        schema = described["components"]["schemas"][name]
        assert "example" in content or "examples" in schema, status
    example = described["components"]["schemas"]["PredictAnswer"]["examples"][0]
    assert example["images"][0]["class"] == example["images"][0]["top"][0]["class"]
