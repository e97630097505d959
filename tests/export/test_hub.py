"""Sharing, with a local folder and with a Hub that is a server of this file on this machine."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image
from summaries import SUMMARY

from dynconv.artifacts.environment import environment
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import Weights, save_weights
from dynconv.errors import DynconvError
from dynconv.export.hub import HubPredictor
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net

CLASSES = ("cat", "dog", "owl|eagle")
RESULTS = {"test_accuracy": 0.9325, "test_accuracy_tta": 0.9392}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a folder of images, that has ended."""
    model = ModelConfig(widths=(8, 8), pools=(4, 2), experts=2)
    path = tmp_path / "run"
    config = {"preset": "quick", "seed": 0, "epochs": 2, "image_sizes": (32,), "tta": True, "precision": "fp32"}
    torch.manual_seed(0)
    net = Net(model, len(CLASSES))
    net.input.fit(torch.rand(50, 3, 32, 32))
    run = RunDir.create(path, config | {"model": model}, environment("pets", data_source=str(tmp_path / "pets")))
    save_weights(run.weights, Weights(net.state_dict(), model, CLASSES, "pets", "trained on pets | by nobody", "fp32"))
    run.write_summary(SUMMARY.model_copy(update=RESULTS))
    return path


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Hub(BaseHTTPRequestHandler):
    """What of the Hub's HTTP interface an upload and a download use."""

    files: dict[str, bytes]
    commit = "0" * 40
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.answer({"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.server.url}/user/pets/commit/{self.commit}", "commitOid": self.commit})
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        repository, _, name = self.path.partition("/resolve/main/")
        content = self.files.get(name)
        if repository != "/user/pets" or content is None:
            known = repository == "/user/pets"
            self.answer({}, 404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})
            return
        tag = hashlib.sha256(content).hexdigest()
        self.answer(content, headers={"X-Repo-Commit": self.commit, "ETag": f'"{tag}"'})

    do_GET = do_HEAD

    def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of the repository user/pets."""
    Hub.files = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        Thread(target=server.serve_forever, daemon=True).start()
        yield Hub.files
        server.shutdown()


def test_a_folder_gives_the_same_predictor(run: Path, tmp_path: Path, images: torch.Tensor) -> None:
    predictor = HubPredictor.load(run)

    predictor.save_pretrained(tmp_path / "shared")
    again = HubPredictor.from_pretrained(tmp_path / "shared", device="cpu")

    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert torch.equal(again.logits(images), predictor.logits(images))
    assert again.classes == CLASSES and again.results == RESULTS and again.data_name == "pets"
    assert isinstance(again.predict(images[0]).label, str)


def test_what_is_shared_is_computed_in_the_precision_of_its_training(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynconv.machine.instruction_sets", lambda: {"avx512_bf16"})
    HubPredictor.load(run, "cpu").save_pretrained(tmp_path / "shared")

    assert HubPredictor.from_pretrained(tmp_path / "shared", device="cpu").precision == "fp32"


def test_nothing_of_this_machine_is_shared(run: Path, tmp_path: Path) -> None:
    HubPredictor.load(run).save_pretrained(tmp_path / "shared")

    for path in (tmp_path / "shared").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_card_is_filled_in_and_its_example_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor
) -> None:
    HubPredictor.load(run).save_pretrained(tmp_path / "shared")

    card = ModelCard.load(tmp_path / "shared" / "README.md")
    assert card.data.library_name == "dynconv" and card.data.pipeline_tag == "image-classification"
    assert card.data.datasets is None  # it was not CIFAR-10
    for text in ("93.25%", "93.92%", r"cat, dog, owl\|eagle", "2 blocks of 2 experts", "3 classes"):
        assert text in card.text
    assert not any(mark in card.content for mark in ("{", "}", "More Information", "TODO", "None"))
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "shared" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "shared")
    exec(card.text.split("```python\n")[1].split("```")[0], {})


def test_the_hub_gives_the_same_predictor(
    run: Path, tmp_path: Path, images: torch.Tensor, hub: dict[str, bytes]
) -> None:
    predictor = HubPredictor.load(run)

    url = predictor.push_to_hub("user/pets", token="hf_test", commit_message="first")
    again = HubPredictor.from_pretrained("user/pets", cache_dir=tmp_path / "cache", token="hf_test", device="cpu")

    assert url.endswith("/user/pets/commit/" + Hub.commit)
    assert set(hub) == {"model.safetensors", "config.json", "README.md"}
    assert b'from_pretrained("user/pets")' in hub["README.md"]
    assert torch.equal(again.logits(images), predictor.logits(images))
    assert again.results == RESULTS


def test_no_such_repository(tmp_path: Path, hub: dict[str, bytes]) -> None:
    with pytest.raises(RepositoryNotFoundError):
        HubPredictor.from_pretrained("user/nobody", cache_dir=tmp_path, token=False)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(DynconvError, match=r"model\.safetensors: does not exist"):
        HubPredictor.from_pretrained(tmp_path)


def test_without_the_package_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['huggingface_hub'] = None; import dynconv.export.hub"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: dynconv.export.hub needs huggingface_hub: pip install 'dynconv[hub]'"
