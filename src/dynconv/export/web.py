"""A trained network -> a folder that any web server can serve: a page that classifies images in the browser.

Needs the extra `onnx`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL

from dynconv.artifacts.files import write_folder
from dynconv.data import Dataset
from dynconv.errors import DynconvError, escaped
from dynconv.export.export import Built, Written, build
from dynconv.export.runtime import Runtime
from dynconv.inference import class_routing
from dynconv.inference.predictor import Predictor
from dynconv.page import files, samples
from dynconv.page.about import about

_FOLDER = Path(__file__).parent / "page"
_SCRIPTS = ("page.js", "camera.js", "image.js", "network.js")
_WRITTEN = {"index.html", "offline.js", "model.json", "model.onnx", "runtime", "samples", *_SCRIPTS, *files.SHARED}


def target(run: Path, int8: bool, output: Path | None = None) -> Path:
    """Where the folder goes: `output`, else web in the run, else a folder here named after the weights.

    Raises:
        DynconvError: it cannot be written there, or there is something else, which must not be replaced.
    """
    ending = "web-int8" if int8 else "web"
    folder = output or (run / ending if run.is_dir() else Path(f"{run.stem}-{ending}"))
    if not folder.absolute().parent.is_dir():
        raise DynconvError(f"{folder}: there is no folder {folder.parent}; create it, or choose another --output")
    if folder.exists():
        if not folder.is_dir():
            raise DynconvError(f"{folder}: is a file; --format web writes a folder: choose another --output")
        others = sorted(path.name for path in folder.iterdir() if path.name not in _WRITTEN)
        if others:
            raise DynconvError(
                f"{folder}: holds {escaped(others[0])}, which no export wrote, and the whole folder would be replaced; "
                "choose another --output"
            )
    return folder


def export(
    predictor: Predictor, dataset: Dataset, folder: Path, runtime: Runtime, *, name: str, int8: bool = False
) -> Written:
    """Writes the folder, once the network in it has been compared with `predictor`.

    Args:
        dataset: as for `dynconv.export.export.build`; the class means of the routing weights come from its test images.
        folder: an earlier export there is replaced.
        name: what the page calls the network.

    Raises:
        DynconvError: as `build`, or the folder cannot be written.
    """
    built = build(predictor, dataset, "onnx", "nhwc", int8=int8, routing=True)
    contents = _contents(predictor, dataset, built, runtime, name)

    def write(place: Path) -> None:
        for path, content in contents.items():
            (place / path).parent.mkdir(exist_ok=True)
            (place / path).write_bytes(content)
        built.check((place / "model.onnx").read_bytes())

    write_folder(folder, write)
    return Written(folder, built.difference, built.accuracies)


def _contents(predictor: Predictor, dataset: Dataset, built: Built, runtime: Runtime, name: str) -> dict[str, bytes]:
    """The folder's files by their paths in it."""
    drawings = samples.draw(predictor.classes)
    told = _about(predictor, dataset, runtime, name, list(drawings))
    found = {
        "model.onnx": built.content,
        "model.json": json.dumps(told).encode(),
        **{name: text.encode() for name, text in files.shared().items()},
        **{name: (_FOLDER / name).read_bytes() for name in _SCRIPTS},
        **{f"runtime/{name}": content for name, content in runtime.files.items()},
        **{f"samples/{name}.png": content for name, content in drawings.items()},
    }
    templates = files.templates(_FOLDER)
    megabytes = round((len(built.content) + sum(map(len, runtime.files.values()))) / 1e6)
    found["index.html"] = templates.get_template("index.html").render(megabytes=megabytes).encode()
    needed = ["./", *(path for path in found if not path.endswith(".txt"))]  # the licences can wait for a connection
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in found.values())).hexdigest()
    found["offline.js"] = templates.get_template("offline.js").render(files=needed, version=digest[:16]).encode()
    return found


def _about(predictor: Predictor, dataset: Dataset, runtime: Runtime, name: str, drawings: list[str]) -> dict[str, Any]:
    """What the page has to know, and how it frames images."""
    return {
        **about(predictor, name, class_routing.measure(predictor, dataset.test), drawings),
        "runtime": f"onnxruntime-web {runtime.version}",
        "frame": {
            **asdict(predictor.frame),
            "columns_first": int(PIL.__version__.partition(".")[0]) >= 13,  # python-pillow/Pillow#9549
        },
    }
