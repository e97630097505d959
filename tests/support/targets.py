"""The parsers of bytes from outside, each with good inputs for it and words of their format."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from arrow_files import png, save, table
from official import PYTHON_FILES, batch, write_binary, write_python
from PIL import Image
from tiny import CONFIG, MODEL

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.cli.settings import load_config
from dynconv.data import archive, arrow, batch_pickle, cifar10, folder, numpy_file
from dynconv.data.frame import DataConfig, Frame
from dynconv.data.image import read_image
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.model.net import Net
from dynconv.report.runs import as_json, read_runs
from dynconv.training.launch import config_of
from dynconv.training.learner import Learner

WORDS = (
    b"[", b"]", b"{", b"}", b"[" * 3000, b'"', b",", b": ", b"-1", b"0", b"1e999", b"9" * 400, b"9" * 5000, b"NaN",
    b"null", b"true", b'"\\ud800"', b"\\u001b[31m", b"\n", b"model", b"format", b"experts", b"widths", b"classes",
    b"99999999999",
)  # fmt: skip
YAML = (
    *WORDS, b"&a ", b"*a", b"<<: *a\n", b"!!float ", b"!!bool ", b"!!timestamp ", b"!!python/name:os.system ", b"- ",
    b"? ", b"|\n",
)  # fmt: skip
PICKLE = (
    b".", b"(", b")", b"]", b"}", b"N", b"R", b"b", b"s", b"u", b"\x85" * 500, b"t", b"Q", b"\x81", b"\x93", b"\x92",
    b"2", b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cbuiltins\neval\n", b"X\x01\0\0\0a", b"J\xff\xff\xff\xff", b"K\1",
    b"h\0",
)  # fmt: skip
BINARY = (
    b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(512), b"ustar\0", b"PK\1\2", b"PK\3\4", b"IHDR", b"\xff\xda",
    b"\x1f\x8b",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser, good inputs for it, and words of their format."""

    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    read: Callable[[bytes], object]


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def at(path: Path, read: Callable[[Path], object], pack: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], object]:
    """Reads the bytes as a file at `path`."""

    def run(data: bytes) -> object:
        path.write_bytes(pack(data))
        return read(path)

    return run


def write_tar(form: int, file: io.BytesIO) -> None:
    """A small batch in a folder, whose name takes a header of its own where the format has one."""
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in PYTHON_FILES[:2]:
            member = tarfile.TarInfo(f"{'deep/' * (3 if form == tarfile.USTAR_FORMAT else 30)}{name}")
            member.size = 600
            archive.addfile(member, io.BytesIO(bytes(600)))


def repacked(whole: bytes, member: str) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A member of a zip archive, and what puts another in its place, with the right checksum."""
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        contents = {name: file.read(name) for name in file.namelist()}

    def pack(data: bytes) -> bytes:
        def write(target: io.BytesIO) -> None:
            with zipfile.ZipFile(target, "w") as file:
                for name, content in contents.items():
                    file.writestr(name, data if name == member else content)

        return saved(write)

    return contents[member], pack


def data_targets(place: Path) -> dict[str, Target]:
    python, binary = write_python(place / "python"), write_binary(place / "binary")
    pickles = [pickle.dumps(batch(seed), protocol=protocol) for seed, protocol in enumerate((0, 2, 4))]
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    tars = [saved(partial(write_tar, form)) for form in forms]
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    npy = [saved(partial(np.save, arr=each)) for each in (array, array.T, array.astype(">i4"), array[0, 0, 0])]
    npz = saved(lambda file: np.savez_compressed(file, images=array, labels=array[0]))
    (npy_inside, pack_npz) = repacked(npz, "images.npy")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    kinds = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA")
    pictures = [saved(partial(picture.save, format=kind)) for kind in kinds]
    pictures.append(saved(lambda file: picture.convert("P").save(file, "PNG", transparency=3)))
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (place / "folders" / part).mkdir(parents=True)
        picture.save(place / "folders" / part / "x.png")

    rows = table([png(picture.rotate(90 * number)) for number in range(4)] * 4, [0, 1] * 8, ["a", "b"])
    stream, parquet = save(place / "rows/x.arrow", rows), save(place / "x.parquet", rows)

    def read_tar(path: Path) -> object:
        return archive.read(path, PYTHON_FILES)

    def read_npz(path: Path) -> object:
        return numpy_file.load_archive(path, ["images", "labels"])

    return {
        "pickle": Target(pickles, PICKLE, lambda data: batch_pickle.load("batch", data)),
        "python batches": Target(
            pickles, PICKLE, at(python / PYTHON_FILES[2], lambda _: cifar10.read(python, DataConfig()))
        ),
        "binary batches": Target(
            [(binary / "test_batch.bin").read_bytes()],
            BINARY,
            at(binary / "test_batch.bin", lambda _: cifar10.read(binary, DataConfig())),
        ),
        "arrow": Target([stream.read_bytes()], BINARY, at(stream, lambda _: arrow.read(stream.parent, DataConfig()))),
        "parquet": Target([parquet.read_bytes()], BINARY, at(parquet, lambda path: arrow.read(path, DataConfig()))),
        "tar": Target(tars, BINARY, at(place / "x.tar", read_tar)),
        "tar.gz": Target(tars, BINARY, at(place / "x.tar.gz", read_tar, lambda d: gzip.compress(d, 1))),
        "gzip": Target([gzip.compress(each) for each in tars], BINARY, at(place / "y.gz", read_tar)),
        "npy": Target(npy, (*WORDS, *BINARY), at(place / "x.npy", numpy_file.load)),
        "npz": Target([npz], BINARY, at(place / "x.npz", read_npz)),
        "array in npz": Target([npy_inside], WORDS, at(place / "y.npz", read_npz, pack_npz)),
        "image": Target(
            pictures, BINARY, lambda data: read_image(io.BytesIO(data), frame=Frame(), max_pixels=25_000_000)
        ),
        "image in a folder": Target(
            pictures, BINARY, at(place / "folders/test/b/x.png", lambda _: folder.read(place / "folders", DataConfig()))
        ),
    }


def artifact_targets(place: Path, run: RunDir) -> dict[str, Target]:
    header = json.loads(safetensors.safe_open(run.weights, "pt").metadata()["dynconv"])
    header.pop("checksum")  # which would refuse every change
    tensors = dict(load_weights(run.weights).state)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pickled, pack_state = repacked(run.state.read_bytes(), "archive/data.pkl")
    learner = Learner(Net(MODEL, 10), CONFIG.optim, torch.device("cpu"), "fp32")

    def use(path: Path) -> object:
        return Predictor.load(path).logits(image)

    def weights_of(metadata: bytes) -> bytes:
        return safetensors.torch.save(tensors, {"dynconv": metadata.decode("utf-8", "replace")})

    def restore(path: Path) -> None:
        try:
            learner.load_state_dict(load_state(path))
        except (RuntimeError, ValueError) as error:  # which the trainer turns into our error
            raise DynconvError(str(error)) from error

    def in_run(name: str, read: Callable[[RunDir], object], tokens: Sequence[bytes] = WORDS) -> Target:
        copy = Path(shutil.copytree(run.path, place / name / "run"))

        def read_and_list(_: Path) -> object:
            as_json(read_runs(copy.parent, {}))
            return read(RunDir.open(copy))

        return Target([(run.path / name).read_bytes()], tokens, at(copy / name, read_and_list))

    settings = [
        yaml.safe_dump(CONFIG.model_dump(mode="json")).encode(),
        b"model: {experts: &a [2], widths: [8, 8], pools: *a}\n",
    ]
    return {
        "configuration": Target(settings, YAML, at(place / "x.yaml", lambda path: load_config(None, path))),
        "weights": Target([run.weights.read_bytes()], (*WORDS, *BINARY), at(place / "x.safetensors", use)),
        "metadata of weights": Target(
            [json.dumps(header).encode()], WORDS, at(place / "y.safetensors", use, weights_of)
        ),
        "state": Target([run.state.read_bytes()], (*PICKLE, *BINARY), at(place / "x.pt", restore)),
        "pickle in state": Target([pickled], PICKLE, at(place / "y.pt", restore, pack_state)),
        "config.yaml": in_run("config.yaml", config_of, YAML),
        "environment.json": in_run("environment.json", lambda run: run.environment),
        "metrics.jsonl": in_run("metrics.jsonl", lambda run: (run.metrics(), run.rewind(0, 0))),
        "summary.json": in_run("summary.json", lambda run: run.summary()),
        "predictions.npz": in_run("predictions.npz", lambda run: run.predictions(), BINARY),
    }
